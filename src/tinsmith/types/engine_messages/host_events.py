"""What an engine host says, and how the API process reaches one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.names.http_names import JSON


@dataclass(frozen=True, slots=True)
class Result:
    """An operation is done: `payload` is a protobuf or JSON message, as `media_type` says."""

    request_id: str
    payload: bytes
    media_type: str = JSON


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation failed; nothing of it took effect, but for an optim_step, which clears the gradients."""

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


# It ended by itself; it was killed or stopped from outside; memory ran out, so that the kernel killed it; it hung.
LossCause = Literal["crashed", "killed", "stopped", "memory", "stalled"]
_OUTSIDE: tuple[LossCause, ...] = ("killed", "stopped")


@dataclass(frozen=True, slots=True)
class Lost:
    """The host died, or was killed because it fell silent or hung in one turn; what it held in memory is gone.

    Attributes:
        running: ids of the operations that it was running at that moment, where that is known.
    """

    reason: str
    cause: LossCause = "crashed"
    running: tuple[str, ...] = ()

    @property
    def from_outside(self) -> bool:
        """Whether no operation can have been the reason."""
        return self.cause in _OUTSIDE


@dataclass(frozen=True, slots=True)
class Stats:
    """Gauges of the host: queue lengths, slots, cache blocks, tokens per second.

    Attributes:
        values: by name.
        running: ids of the samples that have left the queue; a batch or two, however long the queue is.
    """

    values: dict[str, float]
    running: list[str] = field(default_factory=list[str])


Event = Result | Failure | Flushed | Ready | Lost | Stats


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

    def progressed(self) -> None:
        """Note that this life of the host has finished something new, so that the next one need not wait."""
        ...

    async def close(self) -> None:
        """Stop the host and wait until it is gone."""
        ...
