"""Operations that are not part of a pass: the engine call of each, and its result's payload."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    LoadState,
    Operation,
    OptimStep,
    SaveRecoveryPoint,
    SaveSampler,
    SaveState,
    Skip,
    TakeSnapshot,
)
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.params import AdamParams, LoraConfig


class AdapterEngine(Protocol):
    """What these operations need of an engine; every call is complete when it returns."""

    def create_model(self, model_id: str, lora: LoraConfig, /) -> object: ...
    def load_state(self, model_id: str, folder: str, lora: LoraConfig, optimizer: bool = True) -> object: ...
    def save_state(self, model_id: str, folder: str, /) -> int: ...
    def remove_model(self, model_id: str, /) -> object: ...
    def save_sampler(self, model_id: str, folder: str, /) -> int: ...
    def snapshot(self, model_id: str, sampler_id: str, /) -> object: ...
    def optim_step(self, model_id: str, adam: AdamParams, /) -> dict[str, float]: ...
    def clear_gradients(self, model_id: str, /) -> object: ...


def run_barrier(engine: AdapterEngine, queue: ModelQueue, op: Operation) -> dict[str, Any]:
    """Run one operation of a model and return its result.

    Raises:
        UserError: the request is at fault.
    """
    match op.work:
        case CreateModel(lora):
            _refuse_second_birth(queue)
            engine.create_model(queue.model_id, lora)
            queue.born(1)
        case LoadState() as load:
            _load_state(engine, queue, load, in_order=op.seq_id is not None)
        case OptimStep(adam):
            return {"metrics": _optim_step(engine, queue, adam)}
        # A recorded outcome means that the files are complete; there is no effect to repeat.
        case SaveState() | SaveSampler() if op.replay:
            pass
        case SaveState(folder):
            return {"size_bytes": engine.save_state(queue.model_id, folder)}
        case SaveSampler(folder):
            return {"size_bytes": engine.save_sampler(queue.model_id, folder)}
        case SaveRecoveryPoint(folder):
            return {"size_bytes": engine.save_state(queue.model_id, folder), "seq_id": queue.next_seq - 1}
        case TakeSnapshot(sampler_id):
            engine.snapshot(queue.model_id, sampler_id)
        case Skip() as skip:
            _skip(engine, queue, skip, op.seq_id)
        case _:
            raise invalid("kind", op.kind.value, "an operation of a model")
    return {}


def _refuse_second_birth(queue: ModelQueue) -> None:
    if queue.alive:
        raise invalid("model_id", queue.model_id, "an id that no live model has")


def _load_state(engine: AdapterEngine, queue: ModelQueue, load: LoadState, in_order: bool) -> None:
    """Load into a new model, or, at a place in its order, into one that exists."""
    if not in_order:
        _refuse_second_birth(queue)
    engine.load_state(queue.model_id, load.folder, load.lora, optimizer=load.optimizer)
    if in_order:
        # Gradients of the weights before the load mean nothing to those after it.
        clear_step(engine, queue)
    else:
        queue.born(load.next_seq)


def _optim_step(engine: AdapterEngine, queue: ModelQueue, adam: AdamParams) -> dict[str, float]:
    """Step, or say why not; either way the gradients are gone and the next step begins."""
    why = queue.step_error
    # On every way out the step has ended: an error that stayed would fail all later steps too.
    try:
        if why is not None:
            raise UserError(f"optim_step: the gradients are incomplete and were cleared, weights are unchanged: {why}")
        metrics = engine.optim_step(queue.model_id, adam)
    except Exception:
        clear_step(engine, queue)
        raise
    queue.step_done()
    return metrics


def _skip(engine: AdapterEngine, queue: ModelQueue, skip: Skip, seq_id: int | None) -> None:
    if skip.failed_forward_backward:
        queue.step_fails(f"forward_backward with seq_id {seq_id} failed")
    if skip.failed_optim_step:
        clear_step(engine, queue)


def clear_step(engine: AdapterEngine, queue: ModelQueue) -> None:
    """Drop the gradients since the last optimizer step."""
    engine.clear_gradients(queue.model_id)
    queue.step_done()


def encode(result: dict[str, Any]) -> bytes:
    """Return the JSON of a result."""
    return orjson.dumps(result)
