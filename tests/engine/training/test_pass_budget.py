"""How many tokens are computed at once, by what is free at the start and at the moment."""

from __future__ import annotations

import logging
import weakref

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.operations import Driven, create, optim, training
from tests.support.rows import make_row
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.training import pass_budget
from tinsmith.engine.training.pass_memory import Load
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.params import LoraConfig

RANKS = {"a": 8, "b": 5}


def say_free(monkeypatch: pytest.MonkeyPatch, free: float, swap: int = 0) -> None:
    monkeypatch.setattr(pass_budget, "free_memory", lambda device, wanted=0: int(free))
    monkeypatch.setattr(pass_budget, "swap_left", lambda: swap)


def make_engine(**settings: int) -> Engine:
    engine = load_engine(checkpoint("qwen3"), name="base", **settings)
    for seed, (model_id, rank) in enumerate(RANKS.items()):
        engine.create_model(model_id, LoraConfig(rank=rank, seed=seed))
        randomise_adapter(engine, model_id, seed)
    return engine


def make_rows(model_id: str, *lengths: int, seed: int = 0) -> list[TrainRow]:
    rng = np.random.default_rng(seed)
    return [make_row(model_id, "cross_entropy", n, rng) for n in lengths]


def usual(engine: Engine, tokens: int) -> int:
    memory = engine.pass_budget.memory
    return memory.needed(Load(tokens, 1, 32, memory.parameters(32)))


def needed(engine: Engine, tokens: int, *model_ids: str) -> int:
    layouts = [engine.adapters.get(model_id).slot.pool.layout for model_id in model_ids]
    load = Load(tokens, 1, max(layout.bucket for layout in layouts), sum(layout.size for layout in layouts))
    return engine.pass_budget.memory.needed(load)


def tensors(engine: Engine, tokens: int) -> float:
    layout = engine.adapters.get("a").slot.pool.layout
    return engine.pass_budget.memory.tensors(Load(tokens, rank=8, parameters=layout.size))


def grad(engine: Engine, model_id: str) -> torch.Tensor:
    return engine.adapters.get(model_id).grad


def count_streams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the tokens of every stream that is computed from now on."""
    found: list[int] = []
    hidden = BaseModel.hidden

    def watched(self: BaseModel, ids: torch.Tensor, context: object) -> torch.Tensor:
        found.append(ids.shape[0])
        return hidden(self, ids, context)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(BaseModel, "hidden", watched)
    return found


def test_with_enough_memory_the_setting_counts(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine()
    assert engine.max_tokens_per_pass == 4096
    assert engine.figures()["pass_tokens"] == 4096
    assert not caplog.records


def test_with_less_the_budget_is_halved_at_the_start_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wide = make_engine()
    # 40 % of what is free are for a pass; a few per cent more or less give the same budget.
    for part in (1.0, 1.2, 1.5):
        say_free(monkeypatch, part * usual(wide, 1024) / 0.4 + 1)
        caplog.clear()
        engine = make_engine()
        assert engine.max_tokens_per_pass == 1024
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        for word in ("base model base", "1024 tokens", "4096 of TINSMITH_MAX_TOKENS_PER_PASS", "MiB are free", "40%"):
            assert word in record.getMessage()
    # Whatever happens to the memory later, the budget stays.
    say_free(monkeypatch, 2**50)
    assert engine.max_tokens_per_pass == 1024
    say_free(monkeypatch, 0)
    assert make_engine().max_tokens_per_pass == 16
    # A setting that fits is not touched.
    say_free(monkeypatch, usual(wide, 1024) / 0.4 + 1)
    assert make_engine(max_tokens_per_pass=1000).max_tokens_per_pass == 1000


def test_the_load_of_the_machine_changes_no_bits_as_long_as_a_pass_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make_engine(), make_engine()
    rows = make_rows("a", 40, 60, 80, 20)
    one.train_rows(rows)
    say_free(monkeypatch, needed(two, 200, "a"))
    two.train_rows(rows)
    assert torch.equal(grad(one, "a"), grad(two, "a"))
    assert two.figures()["pass_cuts"] == 0


def test_a_pass_that_does_not_fit_at_the_moment_is_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut = make_engine(), make_engine()
    rows = [*make_rows("a", 40, 60, 64, 20), *make_rows("b", 30, 50, seed=1)]
    wanted = whole.train_rows(rows)
    say_free(monkeypatch, needed(cut, 128, "a", "b"))
    streams = count_streams(monkeypatch)
    found = cut.train_rows(rows)
    assert sum(streams) == 264
    assert max(streams) <= 128
    for each, other in zip(found, wanted, strict=True):
        assert isinstance(each, RowOutput)
        assert isinstance(other, RowOutput)
        np.testing.assert_allclose(each.logprobs, other.logprobs, atol=1e-5)
    for model_id in RANKS:
        torch.testing.assert_close(grad(cut, model_id), grad(whole, model_id), rtol=1e-4, atol=1e-5)
    assert cut.figures()["pass_cuts"] == 1
    assert "264 tokens is cut to 128 at once" in caplog.text
    assert cut.max_tokens_per_pass == 4096


def test_a_row_that_cannot_fit_is_refused_with_the_figures_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where to try is to be killed: the row alone is named, all others are computed."""
    engine, alone = make_engine(), make_engine()
    driven = Driven(engine)
    other = Driven(alone)
    # Models of their own, so that the scheduler knows them.
    for each in (driven, other):
        each.run(create("x"), create("y"))
    for each in (engine, alone):
        for seed, model_id in enumerate("xy"):
            randomise_adapter(each, model_id, seed)
    data = {m: [row.datum for row in make_rows(m, *lengths)] for m, lengths in (("x", (20, 700, 30)), ("y", (40, 50)))}
    other.run(training("y", 1, data["y"]), optim("y", 2))
    say_free(monkeypatch, (tensors(engine, 150) + tensors(engine, 700)) / 2)
    streams = count_streams(monkeypatch)
    bad, good, step, bad_step = training("x", 1, data["x"]), training("y", 1, data["y"]), optim("y", 2), optim("x", 2)
    before = engine.adapters.get("x").master.clone()
    driven.run(bad, good, step, bad_step)
    failure = driven.failure(bad)
    assert failure.category == RequestErrorCategory.SERVER
    assert "out of memory (700 tokens at once need about " in failure.message
    assert "MiB are free on cpu)" in failure.message
    assert driven.failure(bad_step)
    assert driven.output(good)
    assert 700 not in streams, "it was tried"
    assert torch.equal(engine.adapters.get("x").master, before)
    torch.testing.assert_close(engine.adapters.get("y").master, alone.adapters.get("y").master, rtol=1e-5, atol=1e-6)
    # With memory, or where the host can swap, the same row is computed.
    say_free(monkeypatch, tensors(engine, 150), swap=2**40)
    again = training("x", 3, data["x"])
    driven.run(again, optim("x", 4))
    assert len(driven.output(again).loss_fn_outputs) == 3


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_memory_that_runs_out_in_a_pass_splits_it(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no model foresees: an allocation fails in the middle. Halves are computed, and the sums are the same."""
    engine, calm = make_engine(), make_engine()
    driven, quiet = Driven(engine), Driven(calm)
    for each, one in ((driven, engine), (quiet, calm)):
        each.run(create("x"), create("y"))
        for seed, model_id in enumerate("xy"):
            randomise_adapter(one, model_id, seed)
    ops = [
        training(model_id, 1, [row.datum for row in make_rows(model_id, *lengths)])
        for model_id, lengths in (("x", (20, 30, 40, 25)), ("y", (60, 10)))
    ]
    quiet.run(*ops)
    _fail_above(50 if where == "forward" else 60, where, monkeypatch)
    driven.run(*ops)
    if where == "forward":
        # The one row of 60 does not fit, however small the pass: its operation fails with the figures.
        assert "out of memory (60 tokens at once need about " in driven.failure(ops[1]).message
        assert "no memory in the forward pass" in driven.failure(ops[1]).message
        assert not grad(engine, "y").abs().sum() or driven.failure(ops[1])
    else:
        torch.testing.assert_close(grad(engine, "y"), grad(calm, "y"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad(engine, "x"), grad(calm, "x"), rtol=1e-4, atol=1e-5)
    assert len(driven.output(ops[0]).loss_fn_outputs) == 4


def _fail_above(tokens: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = BaseModel.hidden

    def failing(self: BaseModel, ids: torch.Tensor, context: object) -> torch.Tensor:
        found = hidden(self, ids, context)  # pyright: ignore[reportArgumentType]
        if ids.shape[0] > tokens:
            if where == "forward":
                raise torch.OutOfMemoryError("no memory in the forward pass")
            found.register_hook(_no_memory)
        return found

    monkeypatch.setattr(BaseModel, "hidden", failing)


def _no_memory(grad: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory in the backward pass")


def test_what_a_failed_pass_held_is_free_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    hidden = BaseModel.hidden

    def failing(self: BaseModel, ids: torch.Tensor, context: object) -> torch.Tensor:
        found = hidden(self, ids, context)  # pyright: ignore[reportArgumentType]
        alive.append(sum(one() is not None for one in held))
        held.append(weakref.ref(found))
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(BaseModel, "hidden", failing)
    outputs = engine.train_rows([*make_rows("a", 20), *make_rows("b", 20)])
    # Together, and each model by itself.
    assert alive == [0, 0, 0]
    assert all(isinstance(output, MemoryError) and "(full)" in str(output) for output in outputs)
