"""How a request becomes an operation: recognised if it is a repeat, stored, handed over, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.handlers.intake.limits import Limits
from tinsmith.server.state.future_store import check_same
from tinsmith.server.state.records import Record, State
from tinsmith.server.state.tasks import to_its_end
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import Effect
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import UserError


class Intake:
    """Accepts operations.

    Attributes:
        limits: what one key may take.
    """

    def __init__(self, core: Core, dispatcher: Dispatcher, recovery_points: RecoveryPoints, limits: Limits) -> None:
        self.limits = limits
        self._dispatcher = dispatcher
        self._recovery_points = recovery_points
        self._futures = core.futures
        self._journal = core.journal
        self._live = core.live

    def known(self, scope: str | None) -> bool:
        """Whether an idempotency key has been used."""
        return self._futures.by_scope(scope) is not None

    async def accept(
        self,
        record: Record,
        effects: Sequence[Effect] = (),
        *,
        reserve: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> Record:
        """Return the operation that answers a request: an earlier one if this is a repeat, else this one, stored.

        Args:
            record: the operation; refused already, or sound.
            effects: what to store with it.
            reserve: changes the live state, at the moment from which a repeat would be recognised.
            undo: takes that back, if the operation cannot be stored.

        Raises:
            SQLAlchemyError, OSError: it could not be stored; the client repeats the request.
            UserError, Damaged, Unavailable: it is refused, and too many refusals are kept (`Limits.check_refusal`).
        """
        first = self._futures.by_scope(record.scope)
        if first is not None:
            return await self._repeat(first, record)
        if record.at_door:
            self.limits.check_refusal(record)
            record.settled_at = self._futures.now()
        # Found from here on, before it is stored: a repeat that comes during the write must not become a second
        # operation.
        self._futures.add(record)
        self._place(record)
        if reserve is not None:
            reserve()
        return await to_its_end(self._store(record, effects, undo))

    async def _store(self, record: Record, effects: Sequence[Effect], undo: Callable[[], None] | None) -> Record:
        try:
            await self._journal.add(record, effects)
        except BaseException:
            self._displace(record)
            self._futures.discard(record)
            if undo is not None:
                undo()
            raise
        finally:
            # In either case: repeats wait for this, and then look whether the operation is still there.
            record.accepted.set()
        if record.at_door:
            # It was stored as failed; no outcome will come.
            self._futures.mark_settled(record)
        # A refused one is handed over too: the engine must not wait for its place in the order. One that failed while
        # it was being stored, because its session ended, is not.
        if record.at_door or record.state is State.PENDING:
            await self._dispatcher.submit(record)
        # After a step no gradients are waiting, which a saved state would not hold.
        if record.kind is OpKind.OPTIM_STEP and not record.at_door:
            self._recovery_points.consider(record)
        return record

    async def _repeat(self, first: Record, record: Record) -> Record:
        try:
            check_same(first, record.payload_hash)
        except UserError as error:
            return await self.refuse(record, error.message)
        await first.accepted.wait()
        if self._futures.find(first.request_id) is None:
            return await self.accept(record)  # the first one could not be stored after all
        return first

    async def refuse(self, record: Record, message: str) -> Record:
        """Store a request that cannot be given a place: its future fails and nothing else is touched."""
        refused = Record(
            record.kind,
            record.owner,
            session_id=record.session_id,
            sampler_id=record.sampler_id,
            note=record.note,
        )
        return await self.accept(refused.refuse(message))

    def _place(self, record: Record) -> None:
        run = self._live.runs.get(record.model_id or "")
        if run is not None and record.seq_id is not None:
            run.ops[record.seq_id] = record

    def _displace(self, record: Record) -> None:
        run = self._live.runs.get(record.model_id or "")
        if run is not None and record.seq_id is not None:
            run.ops.pop(record.seq_id, None)
