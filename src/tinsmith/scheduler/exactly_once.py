"""Every operation runs at most once and is answered exactly once, in one life of a host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from tinsmith.scheduler.failures import describe
from tinsmith.types.engine_messages.host_events import Event, Failure, Result
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import UserError
from tinsmith.types.names.http_names import JSON

# Finished ids that are remembered, so that a repeated submission does not run again. The service repeats only what it
# has no outcome of, so an id comes back while its answer is on the way, not after so many others were answered.
_REMEMBERED = 1 << 18


class ExactlyOnce:
    """Operations that wait for their answer, and the ids of those that had it.

    Args:
        emit: takes the answers.
        begin: told the ids of those that are about to be run, before every call that could end the process or never
            return.
    """

    def __init__(self, emit: Callable[[Event], None], begin: Callable[[Iterable[str]], None]) -> None:
        self.emit = emit
        self.begin = begin
        self._open: dict[str, Operation] = {}
        # A set that knows which of its ids is the oldest.
        self._answered: OrderedDict[str, None] = OrderedDict()

    def accept(self, op: Operation) -> bool:
        """Return whether the operation is new; a repeated one is dropped, its first submission answers."""
        if op.request_id in self._open or op.request_id in self._answered:
            return False
        self.begin((op.request_id,))
        self._open[op.request_id] = op
        return True

    @property
    def waiting(self) -> int:
        """Number of operations without an answer yet."""
        return len(self._open)

    def result(self, op: Operation, payload: bytes = b"{}", media_type: str = JSON) -> None:
        """Answer an operation with its result."""
        self._close(op)
        self.emit(Result(op.request_id, payload, media_type))

    def failure(self, op: Operation, error: Exception) -> None:
        """Answer an operation with an error."""
        self._close(op)
        where = f" of {op.model_id}" if op.model_id else ""
        at = f" (seq_id {op.seq_id})" if op.seq_id is not None else ""
        message, category = describe(error, f"{op.kind}{where}{at}")
        self.emit(Failure(op.request_id, message, category))

    def refuse(self, op: Operation, message: str) -> None:
        """Answer an operation with a fault of its request."""
        self.failure(op, UserError(message))

    def _close(self, op: Operation) -> None:
        # A KeyError here is a second answer: better a broken host than a client that is told two things.
        del self._open[op.request_id]
        self._answered[op.request_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
