"""Memory that runs out at any point of an operation: it happens whole or not at all, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tests.support.sampling import make_job, sample
from tinsmith.engine.adapters.trained_adapters import VECTORS
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.types.params import AdamParams, LoraConfig

MODELS = "abc"


class Short(TorchDispatchMode):
    """Lets the n-th operation that takes memory fail, once or from then on."""

    def __init__(self, at: int, *, for_good: bool = False) -> None:
        super().__init__()
        self.at, self.count, self.for_good = at, 0, for_good

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Views, operations in place and those that write into `out` share a tensor that is there.
        if not any(argument.alias_info for argument in func._schema.arguments):
            self.count += 1
            if self.count == self.at or (self.for_good and self.count > self.at > 0):
                raise torch.OutOfMemoryError("simulated")
        return func(*args, **(kwargs or {}))


def start() -> Engine:
    engine = load_engine(checkpoint("qwen3"))
    for seed, model_id in enumerate(MODELS):
        engine.create_model(model_id, LoraConfig(rank=(8, 8, 5)[seed]))
        randomise_adapter(engine, model_id, seed)
    engine.train_rows([make_row(m, "cross_entropy", 9, np.random.default_rng(0)) for m in MODELS])
    engine.optim_step("a", AdamParams())
    engine.train_rows([make_row(m, "cross_entropy", 9, np.random.default_rng(1)) for m in MODELS])
    return engine


def state(engine: Engine, model_id: str) -> list[torch.Tensor]:
    a = engine.adapters.get(model_id)
    flags = torch.tensor([a.step, a.has_gradients])
    return [*(getattr(a, name).clone() for name in VECTORS), a.slot.flat.clone(), flags]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def step(engine: Engine, _: Path) -> None:
    engine.optim_step("a", AdamParams(learning_rate=1e-2, weight_decay=0.1, grad_clip_norm=0.5))


def snapshot(engine: Engine, _: Path) -> None:
    engine.snapshot("a", "s")


def load(engine: Engine, folder: Path) -> None:
    engine.load_state("a", folder, engine.adapters.get("a").lora)


def load_fresh(engine: Engine, folder: Path) -> None:
    engine.load_state("new", folder, engine.adapters.get("a").lora)


def load_sampler(engine: Engine, folder: Path) -> None:
    engine.load_sampler("s", folder)


def create(engine: Engine, _: Path) -> None:
    engine.create_model("new", LoraConfig(rank=16))


def come_back(engine: Engine, _: Path) -> None:
    engine.adapters.ready("a")


OPERATIONS = [step, snapshot, load, load_fresh, load_sampler, create, come_back]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_happens_whole_or_not_at_all(operation: Callable[[Engine, Path], None], tmp_path: Path) -> None:
    engine = start()
    engine.save_state("b", tmp_path / "b")
    if operation is come_back:
        engine.memory._park(engine.adapters.get("a").slot)
    vectors = [getattr(engine.adapters.get("a"), name).clone() for name in VECTORS]
    taken, held = engine.adapters.get("a").step, (engine.memory.used, engine.memory.parked)
    neighbours = {m: state(engine, m) for m in "bc"}
    failed = 0
    while True:
        with Short(failed + 1):
            try:
                operation(engine, tmp_path / "b")
            except torch.OutOfMemoryError:
                failed += 1
            else:
                break
        a = engine.adapters.get("a")
        assert all(torch.equal(getattr(a, name), v) for name, v in zip(VECTORS, vectors, strict=True)), failed
        assert a.step == taken
        assert engine.adapters.model_ids() == list(MODELS)
        # Pools keep rows that grew; what counts is that nobody holds one, which the next attempt would need.
        assert engine.memory.parked == held[1]
        assert len(engine.memory._slots) == len(MODELS)
        assert all(same(state(engine, m), neighbours[m]) for m in "bc")
    assert failed > 0
    # As it would have come without.
    calm = start()
    operation(calm, tmp_path / "b")
    for model_id in calm.adapters.model_ids():
        assert same(state(engine, model_id), state(calm, model_id))
    if operation in (snapshot, load_sampler):
        answers = [sample(each, make_job("s", [1, 2, 3], max_tokens=4)).sequences[0] for each in (engine, calm)]
        assert answers[0].tokens == answers[1].tokens


def test_a_pass_is_computed_again_model_by_model() -> None:
    rows = [make_row(m, "cross_entropy", 9 + i, np.random.default_rng(i)) for i, m in enumerate(MODELS * 2)]
    calm, engine = start(), start()
    for model_id in MODELS:
        calm.clear_gradients(model_id)
    with Short(-1) as counted:
        wanted = calm.train_rows(rows)
    for at in np.linspace(1, counted.count, 12, dtype=int).tolist():
        for model_id in MODELS:
            engine.clear_gradients(model_id)
            calm.clear_gradients(model_id)
        calm.train_rows(rows)
        with Short(at) as short:
            found = engine.train_rows(rows)
        assert short.count > at
        for one, other in zip(found, wanted, strict=True):
            assert isinstance(one, RowOutput), (at, one)
            assert isinstance(other, RowOutput)
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)
        for model_id in MODELS:
            mine, other = (each.adapters.get(model_id).grad for each in (engine, calm))
            assert float((mine - other).abs().max()) <= 1e-5 * float(other.abs().max()), at


@pytest.mark.parametrize("has_gradients", [False, True])
def test_a_pass_that_fails_leaves_no_part_of_a_gradient(has_gradients: bool) -> None:
    engine = start()
    rows = [make_row(m, "cross_entropy", 9 + i, np.random.default_rng(i)) for i, m in enumerate("ab")]
    if not has_gradients:
        engine.clear_gradients("a")
    before = {m: state(engine, m) for m in MODELS}
    with Short(-1) as counted:
        engine.train_rows(rows)
    engine = start()
    if not has_gradients:
        engine.clear_gradients("a")
    # Behind the middle there are gradients of some layers.
    for at in np.linspace(1, counted.count, 10, dtype=int).tolist():
        with Short(at, for_good=True):
            outputs = engine.train_rows(rows)
        assert all(isinstance(output, MemoryError) for output in outputs)
        assert all(same(state(engine, m), before[m]) for m in MODELS), at
