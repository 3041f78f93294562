"""The `batch_invariant` mode: no neighbour changes a bit of a tenant's results, and the sampler is the learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import LOSS_CASES, make_row
from tests.support.sampling import make_job, run_all, sample
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, SampleJob, TrainRow
from tinsmith.engine.model.tiles.products import TILE, Tiled
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.model_input import ModelInput
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig
from tinsmith.types.tensor import TensorData

# Rank, and whether the output projection is trained too.
ADAPTERS = {"a": (8, False), "b": (32, True), "c": (5, True), "d": (16, False)}


def make_engine(family: str = "qwen3", dtype: str = "float32", **settings: int) -> Engine:
    engine = load_engine(checkpoint(family), dtype=dtype, batch_invariant=True, **settings)
    for seed, (model_id, (rank, unembed)) in enumerate(ADAPTERS.items()):
        engine.create_model(model_id, LoraConfig(rank=rank, seed=1, train_unembed=unembed))
        randomise_adapter(engine, model_id, seed)
    return engine


def make_rows(seed: int, models: str = "abcd") -> list[TrainRow]:
    """Rows of every loss, of lengths on both sides of each tile's border."""
    rng = np.random.default_rng(seed)
    lengths = (3, 40, 17, 64, 28, 65, 130, 16, 15, 9, 63, 1)
    return [
        make_row(models[i % len(models)], case, lengths[i % len(lengths)], rng) for i, case in enumerate(LOSS_CASES)
    ]


def outputs_of(results: list[RowOutput | Exception]) -> list[RowOutput]:
    for one in results:
        if isinstance(one, Exception):
            raise one
    return [one for one in results if isinstance(one, RowOutput)]


def state(engine: Engine, model_id: str) -> list[torch.Tensor]:
    adapter = engine.adapters.get(model_id)
    return [adapter.grad.clone(), adapter.master.clone(), adapter.exp_avg.clone(), adapter.exp_avg_sq.clone()]


def train_alone_and_merged(family: str, dtype: str) -> None:
    merged, alone = make_engine(family, dtype), make_engine(family, dtype, max_tokens_per_pass=50)
    for step in range(2):
        rows = make_rows(step)
        together = outputs_of(merged.train_rows(rows))
        for model_id in ADAPTERS:
            mine = [i for i, row in enumerate(rows) if row.model_id == model_id]
            # Row by row, as far as the smallest pass goes: micro-batches, passes and neighbours all differ.
            own = [outputs_of(alone.train_rows([rows[i]]))[0] for i in mine]
            for i, output in zip(mine, own, strict=True):
                assert np.array_equal(output.logprobs, together[i].logprobs)
                assert output.loss == together[i].loss
            for engine in (merged, alone):
                gradients = state(engine, model_id)[0]
                assert gradients.abs().sum() > 0
            assert all(map(torch.equal, state(merged, model_id), state(alone, model_id)))
            norms = [engine.optim_step(model_id, AdamParams(learning_rate=1e-2)) for engine in (merged, alone)]
            assert norms[0] == norms[1]
            assert all(map(torch.equal, state(merged, model_id), state(alone, model_id)))


def slow_but(fast: str, families: Sequence[str]) -> list[Any]:
    """All families, of which all but some are slow tests."""
    return [f if f in fast.split() else pytest.param(f, marks=pytest.mark.slow) for f in families]


@pytest.mark.row(207)
@pytest.mark.parametrize("family", slow_but("qwen3_moe", FAMILIES))
def test_neighbours_and_cuts_change_no_bit_of_training(family: str) -> None:
    train_alone_and_merged(family, "float32")


@pytest.mark.row(207)
@pytest.mark.parametrize("dtype", slow_but("bfloat16", ["bfloat16", "float64"]))
def test_nor_in_another_dtype(dtype: str) -> None:
    train_alone_and_merged("qwen3", dtype)


def learned(engine: Engine, model_id: str, tokens: list[int]) -> np.ndarray:
    """Logprob of each token but the first, by a forward pass in training."""
    datum = Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": TensorData.from_numpy(np.array(tokens[1:], np.int64))}
    )
    (output,) = outputs_of(engine.train_rows([TrainRow(model_id, datum, "cross_entropy", {}, False)]))
    return output.logprobs


def make_jobs(seed: int, count: int) -> list[SampleJob]:
    rng = np.random.default_rng(seed)
    jobs: list[SampleJob] = []
    for i in range(count):
        prompt = rng.integers(0, 256, int(rng.integers(1, 70))).tolist()
        options = {"top_k": int(rng.integers(1, 320))} if i % 4 == 1 else {"top_p": 0.9} if i % 4 == 2 else {}
        jobs.append(
            make_job(
                "abcd"[i % 4],
                prompt,
                num_samples=1 + i % 3,
                seed=i,
                temperature=0.7 if i % 5 == 3 else 1.0,
                max_tokens=int(rng.integers(1, 24)),
                prompt_logprobs=True,
                request_id=f"job{i}",
                **options,
            )
        )
    return jobs


def samplers_of(engine: Engine) -> Engine:
    for model_id in ADAPTERS:
        engine.snapshot(model_id, model_id)
    return engine


def same(one: SampleResponse | Exception, other: SampleResponse | Exception) -> None:
    assert isinstance(one, SampleResponse)
    assert isinstance(other, SampleResponse)
    for a, b in zip(one.sequences, other.sequences, strict=True):
        assert a.tokens == b.tokens
        assert a.logprobs == b.logprobs
    assert one.prompt_logprobs == other.prompt_logprobs


@pytest.mark.row(208, 209)
@pytest.mark.parametrize("family", slow_but("qwen3", FAMILIES))
@pytest.mark.parametrize("dtype", slow_but("float32", ["float32", "bfloat16"]))
def test_samples_are_the_same_alone_and_beside_others(family: str, dtype: str) -> None:
    crowded = samplers_of(make_engine(family, dtype))
    # Cut prompts, few places and little room: prefills in pieces, preemptions, prompts that are found again.
    tight = samplers_of(make_engine(family, dtype, prefill_tokens=24, max_decode_batch=3, kv_cache_mb=1))
    jobs = make_jobs(3, 6)
    together = run_all(crowded, jobs)
    squeezed = run_all(tight, jobs)
    for job in jobs:
        same(together[job.request_id], squeezed[job.request_id])
        same(together[job.request_id], sample(crowded, job))


@pytest.mark.row(208)
@pytest.mark.parametrize(("family", "dtype"), [("qwen3", "float32"), ("qwen3_moe", "float32"), ("llama", "bfloat16")])
def test_the_sampler_is_the_learner(family: str, dtype: str) -> None:
    engine = samplers_of(make_engine(family, dtype))
    # Logprobs are of the distribution that was drawn from, so of those that are drawn from as they are.
    plain = (job for job in make_jobs(5, 16) if job.params.top_k == -1 and job.params.top_p == 1)
    jobs = [job for job in plain if job.params.temperature == 1]
    found = run_all(engine, jobs)
    compared = 0
    for job in jobs:
        response = found[job.request_id]
        assert isinstance(response, SampleResponse)
        assert response.prompt_logprobs is not None
        for sequence in response.sequences:
            tokens = [*job.prompt, *sequence.tokens]
            wanted = learned(engine, job.sampler_id, tokens)
            sampled = np.array([*response.prompt_logprobs[1:], *(sequence.logprobs or [])], np.float32)
            assert np.array_equal(sampled, wanted)
            compared += len(sequence.tokens)
    assert compared > 50


def test_a_machine_whose_kernels_look_at_other_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(_: Tiled, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        # A sum that begins elsewhere where there are many rows.
        result = x @ weight if x.shape[0] <= 2 * TILE else x.flip(1) @ weight.flip(0)
        return result if out is None else out.copy_(result)

    monkeypatch.setattr(Tiled, "mm", mm)
    with pytest.raises(UserError, match=r"TINSMITH_BATCH_INVARIANT: got 'true', expected false for base model qwen3"):
        load_engine(checkpoint("qwen3"), name="qwen3", batch_invariant=True)


def test_recomputed_activations_change_no_bit() -> None:
    # The routers of a mixture of experts are multiplied in tiles in the second forward pass, too.
    kept, recomputed = make_engine("qwen3_moe"), make_engine("qwen3_moe", activation_checkpointing=True)
    rows = make_rows(1)
    for engine in (kept, recomputed):
        outputs_of(engine.train_rows(rows))
    for model_id in ADAPTERS:
        assert torch.equal(state(kept, model_id)[0], state(recomputed, model_id)[0])


def test_a_run_goes_on_from_a_saved_state_bit_for_bit(tmp_path: Path) -> None:
    calm, other = make_engine(), load_engine(checkpoint("qwen3"), batch_invariant=True)
    adam = AdamParams(learning_rate=1e-2)
    mine = [[row for row in make_rows(step) if row.model_id == "b"] for step in range(2)]
    outputs_of(calm.train_rows(mine[0]))
    calm.optim_step("b", adam)
    calm.save_state("b", tmp_path / "state")
    # Somewhere else, beside somebody else.
    other.create_model("x", LoraConfig(rank=16, seed=3))
    other.load_state("b", tmp_path / "state", LoraConfig(rank=32, seed=1))
    stranger = [make_row("x", "ppo", 33, np.random.default_rng(8))]
    outputs_of(calm.train_rows(mine[1]))
    outputs_of(other.train_rows([*stranger, *mine[1]]))
    for engine in (calm, other):
        engine.optim_step("b", adam)
    assert all(map(torch.equal, state(calm, "b"), state(other, "b")))
