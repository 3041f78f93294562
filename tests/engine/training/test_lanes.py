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
from tinsmith.engine.training import lanes
from tinsmith.engine.training.lanes import in_lanes, lanes_for
from tinsmith.types.params import LoraConfig

MODELS = {"a": 8, "b": 32, "c": 5}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads for torch, and lanes for passes as small as those of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(lanes, "_LANE_TOKENS", 16)
    yield
    torch.set_num_threads(before)


def make_engine(family: str = "qwen3") -> Engine:
    engine = load_engine(checkpoint(family), dtype="float64")
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
    assert lanes_for(tokens=31, longest=31, budget=4096) == 1
    assert lanes_for(tokens=32, longest=16, budget=4096) == 2
    assert lanes_for(tokens=9000, longest=2048, budget=4096) == 2
    assert lanes_for(tokens=9000, longest=2049, budget=4096) == 1
    torch.set_num_threads(1)
    assert lanes_for(tokens=9000, longest=16, budget=4096) == 1


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_lanes_change_nothing_but_rounding_and_repeat_bit_by_bit(
    family: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    hidden = BaseModel.hidden

    def watched(self: BaseModel, *args: object) -> torch.Tensor:
        threads.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        return hidden(self, *args)  # pyright: ignore[reportArgumentType]

    one, two, again = make_engine(family), make_engine(family), make_engine(family)
    rows = make_rows()
    torch.set_num_threads(1)
    wanted = one.train_rows(rows)
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


def test_the_first_failure_is_raised_after_all_lanes_have_ended(two_threads: None) -> None:
    ended: list[int] = []

    def work(lane: int) -> None:
        if lane == 0:
            raise ValueError("lane 0")
        ended.append(lane)

    with pytest.raises(ValueError, match="lane 0"):
        in_lanes(2, work)
    assert ended == [1]
    assert torch.get_num_threads() == 2
