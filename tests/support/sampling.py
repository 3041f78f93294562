"""Sampling jobs for tests, and running an engine's sampler dry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.types.datum import Datum
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import SamplingParams
from tinsmith.types.tensor import TensorData

_numbers = count()
_FIELDS = set(SampleJob.__dataclass_fields__)


def make_job(sampler_id: str, prompt: list[int], num_samples: int = 1, **options: Any) -> SampleJob:
    """Make a job; options are fields of the job or sampling parameters. Seed 0, 16 tokens, no stops unless said."""
    fields = {k: options.pop(k) for k in list(options) if k in _FIELDS}
    params = SamplingParams(**({"max_tokens": 16, "seed": 0, "stop": []} | options))
    fields.setdefault("job_id", f"job-{next(_numbers)}")
    if isinstance(targets := fields.get("target_prompt_logprobs"), np.ndarray):
        fields["target_prompt_logprobs"] = TensorData.from_numpy(targets)
    return SampleJob(sampler_id=sampler_id, prompt=prompt, num_samples=num_samples, params=params, **fields)


def run_all(engine: Engine, jobs: Iterable[SampleJob]) -> dict[str, SampleResponse | Exception]:
    """Add all jobs at once and step until none is left; check that the cache has everything back."""
    for job in jobs:
        engine.sampler.add(job)
    return drain(engine)


def drain(engine: Engine) -> dict[str, SampleResponse | Exception]:
    """Step until no job is left; return what came by job id."""
    results: dict[str, SampleResponse | Exception] = {}
    while engine.sampler.has_work:
        for job_id, result in engine.sampler.step():
            assert job_id not in results
            results[job_id] = result
    assert engine.sampler.schedule.blocks.available == engine.sampler.schedule.blocks.num_blocks
    return results


def sample(engine: Engine, job: SampleJob) -> SampleResponse:
    """Run one job; raises what it failed with."""
    result = run_all(engine, [job])[job.job_id]
    if isinstance(result, Exception):
        raise result
    return result


def samples(engine: Engine, jobs: list[SampleJob]) -> Iterator[tuple[SampleJob, SampleResponse]]:
    """Run jobs together; raises what any failed with."""
    results = run_all(engine, jobs)
    for job in jobs:
        result = results[job.job_id]
        if isinstance(result, Exception):
            raise result
        yield job, result


def random_prompt(length: int, seed: int, vocab: int = 256) -> list[int]:
    """Make token ids below `vocab`."""
    return np.random.default_rng(seed).integers(0, vocab, length).tolist()


def learner_logprobs(engine: Engine, model_id: str, tokens: list[int]) -> np.ndarray:
    """Logprob of each token but the first, by the training pass."""
    datum = Datum(tokens=tokens[:-1], targets=tokens[1:], weights=[1.0] * (len(tokens) - 1))
    (row,) = engine.train_rows([TrainRow(model_id, datum, "cross_entropy", {}, False)])
    assert not isinstance(row, Exception), row
    return row.logprobs


def shaped(logprobs: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Plain reference of the distribution sampled from: logprobs [V] in, logprobs [V] out."""
    if temperature == 0:
        return logprobs
    x = (logprobs.double() / temperature).log_softmax(-1)
    order = x.argsort(descending=True, stable=True)
    if top_k > 0:
        order = order[:top_k]
    kept = x[order].softmax(-1)
    reached = (kept.cumsum(-1) - kept) < top_p
    out = torch.full_like(x, -torch.inf)
    out[order[reached]] = kept[reached].log() - kept[reached].sum().log()
    return out
