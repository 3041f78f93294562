"""Operations and events as messages of plain values, which `cluster.frames` puts on the socket to a child process."""

from __future__ import annotations

from typing import Any, get_args

from tinsmith.types.engine_messages.host_events import Event, Failure, Flushed, Lost, Ready, Result, Stats
from tinsmith.types.engine_messages.operations import Operation, OpKind, Work
from tinsmith.types.engine_messages.strict_fields import from_fields, to_fields
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.facts.base_model_info import BaseModelInfo

# Of a frame with an operation. Both ends come from one installation, so another number means that the files of a
# running service were replaced: then saying so is better than running half of an operation.
FRAME_VERSION = 4

_WORK: dict[OpKind, type[Work]] = {work.kind: work for work in get_args(Work)}


def decode_work(kind: OpKind, fields: object) -> Work:
    """Read what `to_fields` returned for an operation of a kind.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type.
    """
    return from_fields(_WORK[kind], fields, kind.value)


def operation_to_frame(op: Operation) -> dict[str, Any]:
    """Return an operation as a msgpack-able dict."""
    return {
        "version": FRAME_VERSION,
        "request_id": op.request_id,
        "kind": op.kind.value,
        "work": to_fields(op.work),
        "base_model": op.base_model,
        "model_id": op.model_id,
        "seq_id": op.seq_id,
        "body": op.body,
        "body_path": op.body_path,
        "body_digest": op.body_digest,
        "owner": op.owner,
        "weight": op.weight,
        "replay": op.replay,
        "company": op.company,
    }


def operation_from_frame(frame: dict[str, Any]) -> Operation:
    """Read what `operation_to_frame` wrote.

    Raises:
        ValueError: it is of another version, or its operation cannot be read.
    """
    fields = dict(frame)
    version = fields.pop("version", None)
    if version != FRAME_VERSION:
        raise ValueError(f"version: got {version!r}, expected {FRAME_VERSION}: restart the service after an update")
    kind, work = OpKind(fields.pop("kind")), fields.pop("work")
    return Operation(work=decode_work(kind, work), **fields)


_EVENTS: dict[str, type[Any]] = {
    "result": Result,
    "failure": Failure,
    "flushed": Flushed,
    "lost": Lost,
    "stats": Stats,
}


def event_to_frame(event: Event) -> dict[str, Any]:
    """Return an event as a msgpack-able dict with its name under `event`."""
    if isinstance(event, Ready):
        return {"event": "ready", "models": [model.model_dump() for model in event.models]}
    name = type(event).__name__.lower()
    frame = {slot: getattr(event, slot) for slot in event.__slots__}
    if isinstance(event, Failure):
        frame["category"] = event.category.value
    return {"event": name, **frame}


def event_from_frame(frame: dict[str, Any]) -> Event:
    """Read what `event_to_frame` wrote."""
    fields = dict(frame)
    name = fields.pop("event")
    if name == "ready":
        return Ready([BaseModelInfo.model_validate(model) for model in fields["models"]])
    if name == "failure":
        fields["category"] = RequestErrorCategory.parse(fields["category"])
    if name == "lost":
        fields["running"] = tuple(fields["running"])
    return _EVENTS[name](**fields)
