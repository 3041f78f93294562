"""What one tenant, or an older state, must never do to another: faults that multi-adapter servers are known for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tests.support.sampling import make_job, sample
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

ADAM = AdamParams(learning_rate=1e-2)


def make_engine(*models: str, dtype: str = "float32") -> Engine:
    engine = load_engine(checkpoint("qwen3"), dtype=dtype)
    for seed, model_id in enumerate(models):
        # One pool for all: they are neighbours in memory.
        engine.create_model(model_id, LoraConfig(rank=8, seed=seed))
        randomise_adapter(engine, model_id, seed)
    return engine


def row(model_id: str, seed: int = 0, **inputs: object) -> TrainRow:
    return make_row(model_id, "cross_entropy", 20, np.random.default_rng(seed), **inputs)


def train(engine: Engine, *rows: TrainRow) -> list[RowOutput]:
    found = engine.train_rows(rows)
    assert all(isinstance(one, RowOutput) for one in found), found
    return [one for one in found if isinstance(one, RowOutput)]


def state(engine: Engine, model_id: str) -> list[torch.Tensor]:
    a = engine.adapters.get(model_id)
    return [x.clone() for x in (a.master, a.exp_avg, a.exp_avg_sq, a.grad, a.slot.flat)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def test_sampling_an_old_snapshot_does_not_rewind_the_run(tmp_path: Path) -> None:
    engine = make_engine("a")
    engine.snapshot("a", "old")
    engine.save_sampler("a", tmp_path / "old")
    train(engine, row("a"))
    engine.optim_step("a", ADAM)
    train(engine, row("a", 1))
    before = state(engine, "a")
    first = sample(engine, make_job("old", [1, 2, 3]))
    # From disk as well, which is where a server would load it over the weights in training.
    engine.load_sampler("from disk", tmp_path / "old")
    again = sample(engine, make_job("from disk", [1, 2, 3]))
    assert first.sequences[0].tokens == again.sequences[0].tokens
    assert same(state(engine, "a"), before)


@pytest.mark.parametrize("adam", [{"weight_decay": 0.5}, {"grad_clip_norm": 1e-3}, {"beta1": 0.0, "eps": 1.0}])
def test_the_optimizer_of_one_tenant_moves_nobody_else(adam: dict[str, float]) -> None:
    engine, alone = make_engine("a", "b"), make_engine("a", "b")
    train(engine, row("a"), row("b", 1))
    train(alone, row("a"), row("b", 1))
    before = state(engine, "b")
    engine.optim_step("a", AdamParams(learning_rate=0.1, **adam))
    assert same(state(engine, "b"), before)
    metrics = [each.optim_step("b", ADAM) for each in (engine, alone)]
    assert metrics[0] == metrics[1]
    assert same(state(engine, "b"), state(alone, "b"))


def test_whoever_gets_the_place_of_an_ended_run_gets_nothing_of_its_gradients() -> None:
    engine, fresh = make_engine("a"), make_engine()
    train(engine, row("a"))
    engine.optim_step("a", ADAM)
    train(engine, row("a"))
    place = engine.adapters.get("a").slot.index
    engine.remove_model("a")
    for each in (engine, fresh):
        each.create_model("b", LoraConfig(rank=5, seed=9))
    assert engine.adapters.get("b").slot.index == place
    assert not engine.adapters.get("b").has_gradients
    assert same(state(engine, "b"), state(fresh, "b"))
    for each in (engine, fresh):
        train(each, row("b", 2))
        each.optim_step("b", ADAM)
    assert same(state(engine, "b"), state(fresh, "b"))


def test_losses_and_gradients_are_sums() -> None:
    engine = make_engine("a", "b", dtype="float64")
    one, short = row("a"), make_row("a", "cross_entropy", 5, np.random.default_rng(3))
    first, second = train(engine, one, short)
    both = engine.adapters.get("a").grad.clone()
    engine.clear_gradients("a")
    # Neither the number of rows nor their tokens or weights divide anything.
    parts: list[torch.Tensor] = []
    for each, wanted in ((one, first), (short, second)):
        (found,) = train(engine, each)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-12)
        parts.append(engine.adapters.get("a").grad.clone())
        engine.clear_gradients("a")
    torch.testing.assert_close(parts[0] + parts[1], both, rtol=1e-9, atol=1e-12)
    (twice,) = train(engine, row("a", weights=2 * one.datum.loss_fn_inputs["weights"].to_numpy()))
    assert twice.loss == pytest.approx(2 * first.loss, rel=1e-6)


def test_masters_moments_and_steps_are_wide_in_bfloat16() -> None:
    engine = make_engine("a", dtype="bfloat16")
    a = engine.adapters.get("a")
    assert {x.dtype for x in (a.master, a.grad, a.exp_avg, a.exp_avg_sq)} == {torch.float32}
    # A hundred steps, each far below a bfloat16 weight's last digit, add up.
    place = int(a.master.abs().argmax())
    before = a.master[place].item()
    for _ in range(100):
        a.grad[place] = 1.0
        a.has_gradients = True
        engine.optim_step("a", AdamParams(learning_rate=1e-6))
    assert before - a.master[place].item() == pytest.approx(1e-4, rel=1e-2)


def test_a_sampler_outlives_its_run() -> None:
    engine, calm = make_engine("a", "b"), make_engine("a", "b")
    jobs = [make_job("s", [1, 2, 3], seed=4, request_id="r") for _ in range(2)]
    for each, job in zip((engine, calm), jobs, strict=True):
        each.snapshot("a", "s")
        each.sampler.add(job)
        each.sampler.step()
    engine.remove_model("a")
    engine.create_model("c", LoraConfig(rank=8, seed=5))
    train(engine, row("c"))
    engine.optim_step("c", ADAM)
    found: list[SampleResponse] = []
    for each in (engine, calm):
        results: dict[str, SampleResponse | Exception] = {}
        while each.sampler.has_work:
            results |= dict(each.sampler.step())
        response = results["r"]
        assert isinstance(response, SampleResponse)
        found.append(response)
    assert found[0].sequences[0].tokens == found[1].sequences[0].tokens
    assert found[0].sequences[0].logprobs == pytest.approx(found[1].sequences[0].logprobs, abs=1e-5)
    # And for new requests too.
    assert sample(engine, make_job("s", [5, 6])).sequences[0].tokens
