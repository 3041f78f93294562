"""A tenant's final weights do not depend on who else is served: the scheduler with the real engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import DENSE_FAMILIES, SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.operations import Driven, create, load_sampler, operation, optim, sample, training
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.host_events import Failure
from tinsmith.types.engine_messages.operations import ForwardBackward, Operation, OpKind, TakeSnapshot
from tinsmith.types.errors import RequestErrorCategory

STEPS = 4


def make_datum(rng: np.random.Generator, length: int) -> Datum:
    tokens = rng.integers(0, SHAPE.vocab_size, length + 1).tolist()
    return Datum(tokens=tokens[:-1], targets=tokens[1:], weights=rng.random(length).tolist())


def run_of(model_id: str, seed: int, learning_rate: float = 1e-3) -> list[Operation]:
    """Two forward_backwards and a step, several times."""
    rng = np.random.default_rng(seed)
    ops: list[Operation] = []
    for _ in range(STEPS):
        for _ in range(2):
            data = [make_datum(rng, int(n)) for n in rng.integers(3, 40, 4)]
            ops.append(training(model_id, len(ops) + 1, data))
        ops.append(optim(model_id, len(ops) + 1, learning_rate))
    return ops


def bad_run(model_id: str) -> list[Operation]:
    """Ids outside the vocabulary, lengths that differ, values or a loss that are not finite, a body that is none."""
    good = Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[1.0] * 3)
    bad = [
        Datum(tokens=[1, 99_999], targets=[1, 2], weights=[1.0, 1.0]),
        Datum(tokens=[1, 2, 3], targets=[1, 2], weights=[1.0, 1.0]),
        Datum(tokens=[1, 2], targets=[1, 2], weights=[float("nan"), 1.0]),
        Datum(tokens=[1, 2], targets=[1, 2], weights=[3e38, 1.0]),
        Datum(tokens=[1] * (SHAPE.context_length + 1), targets=[1] * (SHAPE.context_length + 1)),
    ]
    ops: list[Operation] = []
    for datum in bad:
        ops.append(training(model_id, len(ops) + 1, [good, datum, good]))
        ops.append(optim(model_id, len(ops) + 1))
    ops.append(operation(ForwardBackward(), model_id, len(ops) + 1, body=b"\xff"))
    return ops


def start(family: str, *model_ids: str) -> tuple[Engine, Driven]:
    """An engine and a host with models whose adapters are not zero, so that every gradient has something to say."""
    engine = load_engine(checkpoint(family), name="base", max_tokens_per_pass=256)
    driven = Driven(engine)
    driven.run(*[create(model_id) for model_id in model_ids])
    for model_id in model_ids:
        randomise_adapter(engine, model_id, seed=sum(map(ord, model_id)))
    return engine, driven


def largest_difference(engine: Engine, alone: Engine, model_id: str) -> float:
    """max|Δ| / max|ref| over the tensors of an adapter."""
    found, wanted = engine.adapters.get(model_id), alone.adapters.get(model_id)
    worst = 0.0
    for place in wanted.slot.pool.layout.places.values():
        for view in (place.a, place.b):
            ours, ref = view(found.master), view(wanted.master)
            worst = max(worst, float((ours - ref).abs().max() / ref.abs().max()))
    return worst


@pytest.mark.row(207)
@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_final_weights_are_those_of_training_alone(family: str, tmp_path: Path) -> None:
    alone, solo = start(family, "m")
    mine = run_of("m", seed=0)
    solo.run(*mine)

    engine, driven = start(family, "m", "good", "bad", "wild")
    wild = run_of("wild", seed=2, learning_rate=1e30)
    snapshot = operation(TakeSnapshot("s", str(tmp_path / "s")), "good", 3 * STEPS + 1)
    draws = [sample("base-itself", [1, 2, 3], max_tokens=8, seed=n) for n in range(10)]
    bad = bad_run("bad")
    crowd = [*run_of("good", seed=1), snapshot, *bad, *wild, load_sampler("base-itself"), *draws]
    rng = np.random.default_rng(3)
    arrivals = [*mine, *crowd]
    merged = _count_merged_passes(engine)
    for index in rng.permutation(len(arrivals)):
        driven.submit(arrivals[index])
        if rng.random() < 0.3:
            driven.host.poll()
    driven.run()
    driven.host.close()

    assert merged() > 0, "no pass was shared"
    for op in (*mine, *draws, snapshot):
        assert driven.result(op)
    assert all(driven.failure(op).category == RequestErrorCategory.USER for op in bad)
    assert any(isinstance(driven.outcome(op), Failure) for op in wild), "the wild one should have diverged"
    assert largest_difference(engine, alone, "m") <= 1e-6
    for op in mine:
        if op.kind is OpKind.FORWARD_BACKWARD:
            for found, wanted in zip(logprobs(driven, op), logprobs(solo, op), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def logprobs(driven: Driven, op: Operation) -> list[np.ndarray]:
    return [output["logprobs"].to_numpy() for output in driven.output(op).loss_fn_outputs]


def _count_merged_passes(engine: Engine) -> Callable[[], int]:
    counts = [0]
    plain = engine.train_rows

    def counted(rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        counts[0] += len({row.model_id for row in rows}) > 1
        return plain(rows)

    engine.train_rows = counted
    return lambda: counts[0]
