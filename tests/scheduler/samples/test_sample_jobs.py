"""What the sampler takes of a SAMPLE operation, and the seed it draws with."""

from __future__ import annotations

import pytest

from tests.support.operations import sample
from tinsmith.scheduler.samples.sample_jobs import sample_job, sample_seed


def test_a_job_is_what_was_asked_for() -> None:
    job = sample_job(sample("s", [3, 4], max_tokens=7, num_samples=2, seed=5, owner="ann", request_id="r"), "s")
    assert (job.request_id, job.sampler_id, job.owner) == ("r", "s", "ann")
    assert (list(job.prompt), job.num_samples, job.params.max_tokens, job.params.seed) == ([3, 4], 2, 7, 5)


@pytest.mark.parametrize("seed", [0, 5, -1])
def test_a_seed_that_was_given_is_kept(seed: int) -> None:
    assert sample_seed(seed, "r") == seed


def test_without_one_the_seed_is_of_the_id_and_fits_a_signed_number() -> None:
    seeds = [sample_seed(None, f"request {n}") for n in range(100)]
    assert seeds == [sample_seed(None, f"request {n}") for n in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
