"""Operations that are not part of a pass: the engine call of each, and its result's payload."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.operations import Operation, OpKind
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
    match op.kind:
        case OpKind.CREATE_MODEL:
            _refuse_second_birth(queue)
            engine.create_model(queue.model_id, LoraConfig(**op.args["lora"]))
            queue.born(1)
        case OpKind.LOAD_STATE:
            _load_state(engine, queue, op)
        case OpKind.OPTIM_STEP:
            return _optim_step(engine, queue, op)
        case OpKind.SAVE_STATE:
            return _save_state(engine, queue, op)
        case OpKind.SAVE_SAMPLER:
            return {} if op.replay else {"size_bytes": engine.save_sampler(queue.model_id, op.args["folder"])}
        case OpKind.SNAPSHOT:
            engine.snapshot(queue.model_id, op.args["sampler_id"])
        case OpKind.SKIP:
            _skip(engine, queue, op)
        case _:
            raise invalid("kind", op.kind.value, "an operation of a model")
    return {}


def _refuse_second_birth(queue: ModelQueue) -> None:
    if queue.alive:
        raise invalid("model_id", queue.model_id, "an id that no live model has")


def _load_state(engine: AdapterEngine, queue: ModelQueue, op: Operation) -> None:
    """Load into a new model, or, at a place in its order, into one that exists."""
    if op.seq_id is None:
        _refuse_second_birth(queue)
    lora = LoraConfig(**op.args["lora"])
    engine.load_state(queue.model_id, op.args["folder"], lora, optimizer=op.args["optimizer"])
    if op.seq_id is None:
        queue.born(op.args.get("next_seq", 1))
    else:
        clear_step(engine, queue)


def _optim_step(engine: AdapterEngine, queue: ModelQueue, op: Operation) -> dict[str, Any]:
    """Step, or say why not; either way the gradients are gone and the next step begins."""
    why = queue.step_error
    try:
        if why is not None:
            raise UserError(f"optim_step: the gradients are incomplete and were cleared, weights are unchanged: {why}")
        metrics = engine.optim_step(queue.model_id, AdamParams(**op.args["adam"]))
    except Exception:
        clear_step(engine, queue)
        raise
    queue.step_done()
    return {"metrics": metrics}


def _save_state(engine: AdapterEngine, queue: ModelQueue, op: Operation) -> dict[str, Any]:
    if op.replay:
        return {}
    result: dict[str, Any] = {"size_bytes": engine.save_state(queue.model_id, op.args["folder"])}
    return result | ({"seq_id": queue.next_seq - 1} if "after_seq" in op.args else {})


def _skip(engine: AdapterEngine, queue: ModelQueue, op: Operation) -> None:
    if op.args.get("failed_forward_backward"):
        queue.step_fails(f"forward_backward with seq_id {op.seq_id} failed")
    if op.args.get("failed_optim_step"):
        clear_step(engine, queue)


def clear_step(engine: AdapterEngine, queue: ModelQueue) -> None:
    """Drop the gradients since the last optimizer step."""
    engine.clear_gradients(queue.model_id)
    queue.step_done()


def encode(result: dict[str, Any]) -> bytes:
    """Return the JSON of a result."""
    return orjson.dumps(result)
