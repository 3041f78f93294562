"""The order of one model's operations: by seq_id, from `next_seq`, whatever order they arrive in."""

from __future__ import annotations

from collections import deque

from tinsmith.types.engine_messages.operations import Operation, OpKind, SaveRecoveryPoint

# They make the model, unless a place in the order says that it exists.
_BIRTHS = (OpKind.CREATE_MODEL, OpKind.LOAD_STATE)


class ModelQueue:
    """What one model still has to do, and what its next optimizer step must know.

    What is ready is asked for as often as one likes; only what arrives (`offer`) and what has happened (`done`, `born`
    and the rest) changes the queue.

    Attributes:
        model_id: the training run.
        owner: whose it is, as its operations say.
        alive: whether the adapter exists in the engine.
        next_seq: the smallest seq_id that is not settled.
        dirty: whether gradients wait for an optimizer step.
        step_error: why the next optimizer step has to fail, None where it may run.
    """

    def __init__(self, model_id: str, now: float) -> None:
        self.model_id = model_id
        self.owner = ""
        self.alive = False
        self.next_seq = 1
        self.dirty = False
        self.step_error: str | None = None
        # Operations with a place in the order, by seq_id; the others are run before (births, releases) or between.
        self._waiting: dict[int, Operation] = {}
        self._births: deque[Operation] = deque()
        self._points: deque[Operation] = deque()
        self._releases: deque[Operation] = deque()
        # The last place that a replay is for: whatever is missing before it never comes.
        self._settled_before = 0
        # Since when the queue stands where it stands.
        self._stands_since = now

    def offer(self, op: Operation, now: float) -> str | None:
        """Take an operation of this model; return why not, where its place in the order is taken."""
        if not self._blocked:
            self._stands_since = now
        self.owner = op.owner
        if op.kind is OpKind.RELEASE_MODEL:
            self._releases.append(op)
        elif op.kind is OpKind.SAVE_RECOVERY_POINT:
            self._points.append(op)
        elif op.kind in _BIRTHS and op.seq_id is None:
            self._births.append(op)
        else:
            return self._place(op)
        return None

    def _place(self, op: Operation) -> str | None:
        if op.seq_id is None:
            return f"seq_id: got None, expected the place of {op.kind} in the order of model {self.model_id}"
        if op.seq_id < self.next_seq:
            return (
                f"seq_id: got {op.seq_id}, expected at least {self.next_seq}: "
                f"this place in the order of model {self.model_id} is settled"
            )
        if op.seq_id in self._waiting:
            return f"seq_id: got {op.seq_id}, expected one that no other operation of model {self.model_id} has"
        self._waiting[op.seq_id] = op
        if op.replay:
            self._settled_before = max(self._settled_before, op.seq_id)
        self._skip_settled()
        return None

    def _skip_settled(self) -> None:
        """Step over places that were settled before this host lived and have nothing to replay.

        Called whenever the order may have moved, so that `next_seq` is right for whoever asks.
        """
        # Not before the birth, which sets `next_seq` to what follows its state.
        if self.alive and self._settled_before > self.next_seq and self.next_seq not in self._waiting:
            # What is missing may have been a forward_backward, so the step it belonged to must not be taken.
            self.step_fails(self._never_arrived)
            self.next_seq = min(seq for seq in self._waiting if seq > self.next_seq)

    # -- what is ready ------------------------------------------------------------------------------------------------

    def ready_barrier(self) -> Operation | None:
        """Return the operation to be run now that is not part of a pass, None where there is none."""
        # A release comes before all else: what waits behind it is about to fail anyway.
        for special in (self._releases, self._births):
            if special:
                return special[0]
        if not self.alive:
            return None
        # A due recovery point comes before the order goes on; the next gradients would close the gap between steps.
        point = self._due_point()
        if point is not None:
            return point
        head = self._waiting.get(self.next_seq)
        return head if head is not None and head.kind is not OpKind.FORWARD_BACKWARD else None

    def ready_pass(self, position: int = 0) -> Operation | None:
        """Return the forward_backward at `position` of the unbroken run of them that is ready to be computed.

        Positions are asked for in turn, so what comes before is known to be part of the run.
        """
        if not self.alive or self._releases or self._births or self._due_point():
            return None
        op = self._waiting.get(self.next_seq + position)
        return op if op is not None and op.kind is OpKind.FORWARD_BACKWARD else None

    def _due_point(self) -> Operation | None:
        """A recovery point may be taken between steps only: gradients and a failed step are not part of a state."""
        if self.dirty or self.step_error is not None:
            return None
        for op in self._points:
            if isinstance(op.work, SaveRecoveryPoint) and op.work.after_seq < self.next_seq:
                return op
        return None

    # -- what has happened --------------------------------------------------------------------------------------------

    def done(self, op: Operation, now: float) -> None:
        """Take an operation that was answered out of the queue; one with a place in the order settles it."""
        self._stands_since = now
        for special in (self._births, self._points, self._releases):
            if op in special:
                special.remove(op)
                return
        del self._waiting[op.seq_id]  # pyright: ignore[reportArgumentType]
        self.next_seq = (op.seq_id or 0) + 1
        self._skip_settled()

    def born(self, next_seq: int) -> None:
        """The adapter exists; operations up to `next_seq` - 1 are part of it."""
        self.alive = True
        self.next_seq = next_seq
        self.step_done()
        self._skip_settled()

    def step_done(self) -> None:
        """The gradients were used or cleared."""
        self.dirty = False
        self.step_error = None

    def step_fails(self, why: str) -> None:
        """The next optimizer step has to fail; the first reason counts."""
        self.step_error = self.step_error or why

    # -- gaps ---------------------------------------------------------------------------------------------------------

    @property
    def blocked_since(self) -> float | None:
        """Since when the queue has had work that it cannot begin, None where it has none.

        What arrives behind the gap does not move it: a client that goes on sending would put it off for ever.
        """
        return self._stands_since if self._blocked else None

    @property
    def _blocked(self) -> bool:
        if self.ready_barrier() or self.ready_pass() or not (self._waiting or self._points):
            return False
        # Recovery points alone may wait for ever: they are due after the next step, which need not come.
        return bool(self._waiting) or not self.alive

    @property
    def missing(self) -> str:
        """What a blocked queue waits for."""
        if not self.alive:
            return f"model_id: got {self.model_id!r}, expected a model that was created and not released"
        return self._never_arrived

    @property
    def _never_arrived(self) -> str:
        return f"seq_id {self.next_seq} of model {self.model_id} never arrived"

    def everything(self) -> list[Operation]:
        """Return all operations in the queue, the ordered ones by seq_id."""
        return [*self._births, *self.ordered(), *self._points, *self._releases]

    def ordered(self) -> list[Operation]:
        """Return the operations that have a place in the order, by seq_id."""
        return [self._waiting[seq] for seq in sorted(self._waiting)]

    def __len__(self) -> int:
        return len(self._waiting) + len(self._births) + len(self._points) + len(self._releases)
