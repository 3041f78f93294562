"""Micro-batches side by side: the same sums, the same bits every time, and nothing of a pass that failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import LOSS_CASES, make_row
from tinsmith.engine.adapters.slots import PassGradients, Slot
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.threads import THREADS
from tinsmith.engine.training import training_pass
from tinsmith.engine.training.training_pass import lanes_for
from tinsmith.types.params import AdamParams, LoraConfig

MODELS = {"a": 8, "b": 32, "c": 5}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with two cores, and lanes for passes as small as those of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(THREADS, "_most", 2)
    for name in ("steady", "free"):
        monkeypatch.setattr(THREADS, name, 2)
    monkeypatch.setattr(THREADS, "follow_load", lambda grain: None)  # the number of threads is what the test says
    monkeypatch.setattr(training_pass, "_LANE_TOKENS", 16)
    yield
    torch.set_num_threads(before)


def make_engine(family: str = "qwen3", dtype: str = "float64") -> Engine:
    engine = load_engine(checkpoint(family), dtype=dtype)
    THREADS.free = 2  # whatever the load of the machine
    for seed, (model_id, rank) in enumerate(MODELS.items()):
        engine.create_model(model_id, LoraConfig(rank=rank))
        randomise_adapter(engine, model_id, seed)
    return engine


def make_rows() -> list[TrainRow]:
    rng = np.random.default_rng(0)
    cases = list(LOSS_CASES)
    lengths = (3, 40, 17, 9, 28, 5, 64, 31)
    return [make_row("abc"[i % 3], cases[i % len(cases)], n, rng) for i, n in enumerate(lengths)]


def gradients(engine: Engine) -> torch.Tensor:
    return torch.cat([engine.adapters.get(model_id).grad for model_id in MODELS])


def test_a_lane_has_enough_to_do_and_all_lanes_fit_the_budget(two_threads: None) -> None:
    assert lanes_for(tokens=31, longest=31, budget=4096, most=2) == 1
    assert lanes_for(tokens=32, longest=16, budget=4096, most=2) == 2
    assert lanes_for(tokens=9000, longest=2048, budget=4096, most=2) == 2
    assert lanes_for(tokens=9000, longest=2049, budget=4096, most=2) == 1
    assert lanes_for(tokens=9000, longest=16, budget=4096, most=1) == 1


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_lanes_change_nothing_but_rounding_and_repeat_bit_by_bit(
    family: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    together = threading.Barrier(2)
    hidden = BaseModel.hidden

    def watched(self: BaseModel, *args: object) -> torch.Tensor:
        if threading.get_ident() not in threads and len(threads) < 2:
            threads.add(threading.get_ident())
            together.wait(60)  # else a thread that is quick might take both lanes
        assert torch.get_num_threads() == 1
        return hidden(self, *args)  # pyright: ignore[reportArgumentType]

    one, two, again = make_engine(family), make_engine(family), make_engine(family)
    rows = make_rows()
    monkeypatch.setattr(THREADS, "steady", 1)
    wanted = one.train_rows(rows)
    monkeypatch.setattr(THREADS, "steady", 2)
    torch.set_num_threads(2)
    monkeypatch.setattr(BaseModel, "hidden", watched)
    found = two.train_rows(rows)
    assert len(threads) == 2
    again.train_rows(rows)
    for each, other in zip(found, wanted, strict=True):
        assert isinstance(each, RowOutput)
        assert isinstance(other, RowOutput)
        np.testing.assert_allclose(each.logprobs, other.logprobs, rtol=1e-11)
    torch.testing.assert_close(gradients(two), gradients(one), rtol=1e-9, atol=1e-11)
    assert torch.equal(gradients(two), gradients(again))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_busy_machine_gives_the_bits_of_an_idle_one(dtype: str, two_threads: None) -> None:
    """The load decides how many lanes run at once, which a run that is repeated or replayed must not show."""
    busy, idle = make_engine(dtype=dtype), make_engine(dtype=dtype)
    rows = make_rows()
    adam = AdamParams(learning_rate=1e-3, grad_clip_norm=0.1, weight_decay=0.1)
    for threads, engine in ((1, busy), (2, idle)):
        THREADS.free = threads
        torch.set_num_threads(threads)
        for _ in range(3):
            assert all(isinstance(output, RowOutput) for output in engine.train_rows(rows))
            for model_id in MODELS:
                engine.optim_step(model_id, adam)
    for model_id in MODELS:
        one, other = (engine.adapters.get(model_id) for engine in (busy, idle))
        assert torch.equal(one.slot.flat, other.slot.flat)


def test_what_one_lane_got_of_a_pass_that_failed_in_another_reaches_nobody(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calm = make_engine(), make_engine()
    torch.set_num_threads(2)  # loading a small model has set one
    guilty = engine.adapters.get("b").slot
    views = PassGradients.views

    def fail_late(self: PassGradients, slot: Slot, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if slot is guilty and name.startswith("model.layers.0."):
            raise MemoryError("out of memory")
        return views(self, slot, name)

    rows = make_rows()
    monkeypatch.setattr(PassGradients, "views", fail_late)
    outputs = engine.train_rows(rows)
    monkeypatch.undo()
    assert [isinstance(o, MemoryError) for o in outputs] == [r.model_id == "b" for r in rows]
    assert not engine.adapters.get("b").grad.any()
    calm.train_rows(rows)
    for model_id in ("a", "c"):
        found, wanted = engine.adapters.get(model_id).grad, calm.adapters.get(model_id).grad
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
