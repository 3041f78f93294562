"""A host dies at any moment; a new one that is given the recovery point and the rest in order ends where it should."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scheduler.test_properties import BUDGET, Expected, Step, WatchedEngine, expectations, programs
from tests.support.fakes.fake_engine import FakeModel, Weights
from tests.support.operations import Driven, create, operation
from tinsmith.types.codec import parse_forward_backward_request
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operations import LoadState, Operation, OpKind, SaveRecoveryPoint, Skip
from tinsmith.types.params import LoraConfig

LORA = LoraConfig(rank=8, seed=0)


class DiskEngine(WatchedEngine):
    """Keeps its files in a dict that outlives it."""

    def __init__(self, disk: dict[str, Weights]) -> None:
        super().__init__(max_tokens_per_pass=BUDGET, token_s=1e-6, step_s=1e-6)
        self.disk = disk

    def save_state(self, model_id: str, folder: str) -> int:
        self.disk[folder] = self.models[model_id].weights
        return super().save_state(model_id, folder)

    def load_state(self, model_id: str, folder: str, lora: LoraConfig, optimizer: bool = True) -> None:
        self.models[model_id] = FakeModel(self.disk[folder])


@pytest.mark.row(210)
@given(programs, st.integers(0, 2**32))
def test_a_kill_at_any_moment_changes_no_final_weights(program: list[list[Step]], seed: int) -> None:
    rng = random.Random(seed)
    expected = expectations([[*own, Step("optim")] for own in program])
    disk: dict[str, Weights] = {}
    first = _first_life(expected, disk, rng)
    second = Driven(engine := DiskEngine(disk))
    for model_id, model in expected.items():
        second.submit(*_rebuild(model_id, model, first, disk))
    second.run()
    for driven in (first, second):
        driven.host.close()
    for model_id, model in expected.items():
        steps = [entry for entry in model.diary if entry[0] == "step"]
        assert engine.models[model_id].weights == (steps[-1][1] if steps else ())
        for op, ok in model.ops:
            answered = first.outcomes(op) or second.outcomes(op)
            assert len(answered) == 1
            assert isinstance(answered[0], Result if ok else Failure)


def _first_life(expected: Mapping[str, Expected], disk: dict[str, Weights], rng: random.Random) -> Driven:
    """Submit everything and recovery points in between, and stop after some turns."""
    driven = Driven(DiskEngine(disk))
    for model_id, model in expected.items():
        driven.submit(create(model_id), *[op for op, _ in model.ops])
        for seq_id in rng.sample(range(1, len(model.ops) + 1), k=min(2, len(model.ops))):
            driven.submit(operation(SaveRecoveryPoint(f"{model_id}/{seq_id}", seq_id), model_id))
    for _ in range(rng.randrange(4 * sum(len(model.ops) for model in expected.values()) + 1)):
        driven.host.poll()
    return driven


def _rebuild(model_id: str, model: Expected, first: Driven, disk: dict[str, Weights]) -> list[Operation]:
    """What a service submits: the last recovery point, then the rest with what is recorded of it."""
    points = [
        (first.payload(op)["seq_id"], op.work.folder)
        for op in first.submitted
        if op.model_id == model_id and isinstance(op.work, SaveRecoveryPoint) and first.outcomes(op)
    ]
    done, folder = max(points, default=(0, None))
    birth = create(model_id)
    if folder is not None:
        birth = operation(LoadState(folder, optimizer=True, lora=LORA, next_seq=done + 1), model_id)
    return [birth, *[_again(op, first) for op, _ in model.ops[done:]]]


def _again(op: Operation, first: Driven) -> Operation:
    outcome = next(iter(first.outcomes(op)), None)
    if outcome is None:
        return op
    if isinstance(outcome, Failure):
        backward = (
            op.kind is OpKind.FORWARD_BACKWARD and not parse_forward_backward_request(op.body or b"").forward_only
        )
        skip = Skip(failed_forward_backward=backward, failed_optim_step=op.kind is OpKind.OPTIM_STEP)
        return operation(skip, op.model_id, op.seq_id, request_id=op.request_id)
    return replace(op, replay=True)
