"""The frames between the API process and an engine host: operations in, events out.

Both sides see only these types, so neither imports the other, and the same frames travel inside one process or over
a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.errors import RequestErrorCategory


class OpKind(StrEnum):
    """What an operation does; the arguments of each are listed at `Operation.args`."""

    CREATE_MODEL = "create_model"
    LOAD_STATE = "load_state"
    FORWARD_BACKWARD = "forward_backward"
    OPTIM_STEP = "optim_step"
    SAVE_STATE = "save_state"
    SAVE_SAMPLER = "save_sampler"
    SNAPSHOT = "snapshot"
    LOAD_SAMPLER = "load_sampler"
    RELEASE_SAMPLER = "release_sampler"
    RELEASE_MODEL = "release_model"
    SKIP = "skip"
    SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class Operation:
    """One journalled operation on its way to an engine.

    Attributes:
        request_id: the request id of the operation's future; an id runs at most once in the life of a host.
        kind: what to do.
        base_model: which engine.
        model_id: the adapter that is trained; training operations of one model run in the order of `seq_id`.
        seq_id: the position in the model's order, from 1; None where no order is asked for.
        args: small arguments by kind.
            CREATE_MODEL `{lora}`; LOAD_STATE `{folder, optimizer, lora, next_seq}`; OPTIM_STEP `{adam}`;
            SAVE_STATE `{folder}` and, for a recovery point, `{folder, after_seq}`; SAVE_SAMPLER `{folder}`;
            SNAPSHOT `{sampler_id, folder}`; LOAD_SAMPLER `{sampler_id, folder | None}` (None: the base itself);
            RELEASE_SAMPLER `{sampler_id}`; SKIP `{failed_forward_backward, failed_optim_step}` (both optional);
            SAMPLE `{sampler_id}`.
            SKIP stands for an operation that took no effect: a failed forward_backward makes the next optim_step fail,
            a failed optim_step ends the step (gradients are cleared, weights stay).
            SAVE_STATE with `after_seq` runs once everything up to there is done and no gradients are pending; its
            result `{size_bytes, seq_id}` names the last operation that the saved state holds, which may be later.
        body: FORWARD_BACKWARD: the protobuf request; SAMPLE: the JSON request.
        body_path: a file that holds the body, where it is bulky.
        replay: the outcome is recorded already; the operation runs for its effect. An ordered operation with `replay`
            also says that everything before it in its model's order is settled: what was not submitted never comes.
    """

    request_id: str
    kind: OpKind
    base_model: str
    model_id: str | None = None
    seq_id: int | None = None
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    body: bytes | None = None
    body_path: str | None = None
    replay: bool = False

    def read_body(self) -> bytes:
        """Return the body, from memory or from its file."""
        if self.body is not None:
            return self.body
        if self.body_path is None:
            raise ValueError(f"operation {self.request_id} ({self.kind}) has no body")
        return Path(self.body_path).read_bytes()

    def to_frame(self) -> dict[str, Any]:
        """Return the operation as a msgpack-able dict."""
        return {
            "request_id": self.request_id,
            "kind": self.kind.value,
            "base_model": self.base_model,
            "model_id": self.model_id,
            "seq_id": self.seq_id,
            "args": self.args,
            "body": self.body,
            "body_path": self.body_path,
            "replay": self.replay,
        }

    @classmethod
    def from_frame(cls, frame: dict[str, Any]) -> Operation:
        """Read what `to_frame` wrote."""
        fields: dict[str, Any] = {**frame, "kind": OpKind(frame["kind"])}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Result:
    """An operation is done: `payload` is a protobuf or JSON message, as `media_type` says."""

    request_id: str
    payload: bytes
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation failed; nothing of it took effect."""

    request_id: str
    message: str
    category: RequestErrorCategory


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a SNAPSHOT took is now on disk too."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The host is up and every model it serves is loaded."""

    models: list[BaseModelInfo]


@dataclass(frozen=True, slots=True)
class Lost:
    """The host died; whatever it held in memory is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Gauges of the host: queue lengths, slots, cache blocks, tokens per second."""

    values: dict[str, float]


Event = Result | Failure | Flushed | Ready | Lost | Stats

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
    return _EVENTS[name](**fields)


class EngineLink(Protocol):
    """How the API process reaches an engine host, wherever it runs."""

    async def start(self, on_event: Callable[[Event], None]) -> None:
        """Start the host; events, `Ready` first, arrive through `on_event` on the calling event loop."""
        ...

    def submit(self, op: Operation) -> None:
        """Hand over an operation; never blocks."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ask for a sampling operation to be dropped; advisory."""
        ...

    async def close(self) -> None:
        """Stop the host and wait until it is gone."""
        ...
