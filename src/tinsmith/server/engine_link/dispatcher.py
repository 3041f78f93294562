"""The way to the engine: what may be handed over now, and what has to wait until an engine is up and rebuilt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import update

from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.engine_link.resting import is_crowded, to_rest
from tinsmith.server.state.live import SamplingSession, TrainingRun
from tinsmith.server.state.records import Record, State, new_id
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import SamplerRow
from tinsmith.types.engine_messages.host_events import EngineLink, Failure, Result
from tinsmith.types.engine_messages.operations import (
    ForwardBackward,
    LoadSampler,
    LoadState,
    Operation,
    OpKind,
    ReleaseModel,
    ReleaseSampler,
    SaveSampler,
    SaveState,
    Skip,
    TakeSnapshot,
)
from tinsmith.types.errors import Damaged, RequestErrorCategory
from tinsmith.types.facts.loss_table import BASE_REFERENCE


@dataclass(frozen=True, slots=True)
class Internal:
    """An operation that no client asked for, and what follows from its outcome.

    Attributes:
        kind, of: what it does, and the id of the run or sampler that it is for.
        done, failed: called with its outcome; may return a coroutine.
        given_up: called with the reason once engines were lost with it too often; may return a coroutine.
    """

    kind: OpKind
    of: str
    done: Callable[[Result], Any]
    failed: Callable[[Failure], Any]
    given_up: Callable[[str], Any]


class Dispatcher:
    """Hands operations to the engine host.

    Args:
        outcomes: takes the failure of a sample whose sampler cannot be loaded.
        weight_of: returns the weight of an owner's account.

    Attributes:
        life: changes whenever a host comes up or is lost.
        up: whether there is a host.
        open: whether newly accepted operations go to the host at once. While it is down or what it lost is being
            rebuilt they wait; `recovery` hands them over.
    """

    def __init__(self, core: Core, link: EngineLink, outcomes: Outcomes, weight_of: Callable[[str], float]) -> None:
        self._core = core
        self._weight_of = weight_of
        self._link = link
        self._outcomes = outcomes
        self._journal = core.journal
        self._live = core.live
        self._catalog = core.catalog
        self._db = core.db
        self._data_folder = core.data_folder
        self.life = 0
        self.up = False
        self.open = False
        self._internal: dict[str, Internal] = {}
        self._replayed: dict[str, Record] = {}

    # -- the host's life ----------------------------------------------------------------------------------------------

    def born(self) -> int:
        """A host is up; return which life this is."""
        self.life += 1
        self.up = True
        return self.life

    def progressed(self) -> None:
        """The host has finished something that no earlier one had."""
        self._link.progressed()

    def lost(self) -> None:
        """The host is gone, and with it all that it held."""
        # A life of its own for the time without a host: work that began before sees at once that it is too late.
        self.life += 1
        self.up = self.open = False
        # Nobody repeats what the service wanted for itself: recovery decides anew what is needed. Samples that were
        # held are pending, so recovery hands them over again.
        self._internal.clear()
        self._replayed.clear()
        for sampler in self._live.samplers.values():
            sampler.ready = False
            sampler.loading = False
            sampler.held.clear()

    # -- operations of clients ----------------------------------------------------------------------------------------

    async def submit(self, record: Record) -> None:
        """Hand over a newly accepted operation, if the host can take it now."""
        if self.open:
            await self.send(record)

    async def send(self, record: Record) -> None:
        """Hand over an operation once in this life of the host; a sample may first wait for its sampler."""
        if record.submitted_in == self.life:
            return
        if record.kind is OpKind.SAMPLE and record.state is State.PENDING:
            sampler = self._live.samplers.get(record.sampler_id or "")
            if sampler is not None:
                sampler.used_at = time.monotonic()
                reason = sampler.damage or self._catalog.other_weights(sampler.base_model, sampler.base_weights)
                if reason is not None:
                    message = f"sampling session {sampler.id}: {reason}"
                    self._outcomes.fail(record, message, RequestErrorCategory.SERVER)
                    return
                if not sampler.ready:
                    sampler.held.append(record)
                    self._load_if_possible(sampler)
                    return
        await self._hand_over(record, replay=False)

    async def _hand_over(self, record: Record, *, replay: bool, verify: bool = False) -> None:
        # Noted before the await: recovery must not take it for one that is still to be handed over.
        life = record.submitted_in = self.life
        if record.at_door:
            if record.seq_id is not None:
                # The engine must not wait for a number that was refused.
                self.skip(record)
            return
        if record.damage is not None:
            raise Damaged(record.damage)
        try:
            body, path = await self._journal.body(record, verify=verify)
        except BaseException:
            # Still to be handed over; no life is the 0th.
            record.submitted_in = 0
            raise
        # The host may have been lost while the body was read: then recovery comes back to it.
        if life == self.life:
            self._submit(self.operation(record, body, path, replay))
            if replay:
                self._replayed[record.request_id] = record
            # The journal has it too; where there is none, nothing is ever handed over twice.
            record.body = None

    async def replay(self, record: Record) -> None:
        """Run an operation again for its effect; its outcome is recorded.

        Raises:
            Damaged: its body is lost.
        """
        # Verified: from a damaged body the run would learn something else without a word.
        await self._hand_over(record, replay=True, verify=True)

    async def resend(self, record: Record) -> None:
        """Hand over an operation that has no outcome yet to a new host.

        Raises:
            Damaged: its body is lost.
        """
        await self._hand_over(record, replay=False, verify=True)

    def operation(self, record: Record, body: bytes | None, path: str | None, replay: bool) -> Operation:
        """Return what the engine is told of an operation."""
        work = record.work
        if work is None:
            raise ValueError(f"operation {record.request_id} ({record.kind}) was refused, so nothing is known to run")
        if isinstance(work, LoadState | SaveState | SaveSampler | TakeSnapshot):
            work = replace(work, folder=str(self._data_folder.absolute(work.folder)))
        elif isinstance(work, ForwardBackward) and work.reference is not None and work.reference != BASE_REFERENCE:
            work = replace(work, reference=str(self._data_folder.absolute(work.reference)))
        op = Operation(record.request_id, work, record.base_model, record.model_id, record.seq_id, body, path)
        # Of bytes in memory nothing can have changed.
        known = record.body_digest if path is not None else None
        return replace(op, body_digest=known, owner=record.owner, replay=replay, company=record.company)

    def skip(self, record: Record) -> None:
        """Tell the host that an operation's place in the order is taken by nothing, and what its failure means."""
        work = Skip(
            failed_forward_backward=record.kind is OpKind.FORWARD_BACKWARD and not record.forward_only,
            failed_optim_step=record.kind is OpKind.OPTIM_STEP and not record.at_door,
        )
        record.submitted_in = self.life
        op = Operation(record.request_id, work, record.base_model, record.model_id, record.seq_id)
        self._submit(replace(op, owner=record.owner, replay=not record.at_door))

    def cancel(self, record: Record) -> None:
        """Ask the host to drop a sample."""
        sampler = self._live.samplers.get(record.sampler_id or "")
        if sampler is not None and record in sampler.held:
            sampler.held.remove(record)
        elif record.submitted_in == self.life and self.up:
            self._link.cancel(record.request_id)

    # -- operations of the service itself -----------------------------------------------------------------------------

    def internal(self, op: Operation, follow: Internal | None = None) -> None:
        """Hand over an operation of the service's own."""
        if follow is not None:
            self._internal[op.request_id] = follow
        self._submit(op)

    def _submit(self, op: Operation) -> None:
        # The weight as it is now, not as it was when the operation was journalled: what an owner gets today may depend
        # on a key that was made since.
        self._link.submit(replace(op, weight=self._weight_of(op.owner)))

    def take_internal(self, request_id: str) -> Internal | None:
        """Return what follows from an internal operation's outcome, which has come."""
        return self._internal.pop(request_id, None)

    def find(self, request_id: str) -> Internal | Record | None:
        """Return what this life of the host was handed under an id, where that is still of interest to anybody."""
        # A replay by itself: its future may have expired long ago.
        handed = self._internal.get(request_id) or self._replayed.get(request_id)
        return handed or self._core.futures.find(request_id)

    def take_replayed(self, request_id: str) -> Record | None:
        """Return the operation whose replay this was."""
        return self._replayed.pop(request_id, None)

    def release_model(self, run: TrainingRun) -> None:
        """Free a model's memory."""
        if self.up:
            self.internal(Operation(new_id(), ReleaseModel(), run.base_model, run.id, owner=run.owner))

    # -- samplers -----------------------------------------------------------------------------------------------------

    def load_sampler(self, sampler: SamplingSession) -> None:
        """Make the engine hold a sampler."""
        if self.open:
            self._load_if_possible(sampler)

    def _load_if_possible(self, sampler: SamplingSession) -> None:
        other = self._catalog.other_weights(sampler.base_model, sampler.base_weights)
        if sampler.damage is not None or other is not None:
            return  # its samples fail
        if sampler.loading or not sampler.on_disk:
            return  # a snapshot that is not on disk comes from its model's replay
        sampler.loading = True
        folder = str(self._data_folder.absolute(sampler.folder)) if sampler.folder is not None else None
        op = Operation(new_id(), LoadSampler(sampler.id, folder), sampler.base_model, owner=sampler.owner)
        follow = Internal(
            OpKind.LOAD_SAMPLER,
            sampler.id,
            done=lambda _: self._sampler_loaded(sampler),
            failed=lambda failure: self._sampler_failed(sampler, failure),
            given_up=lambda reason: self._sampler_given_up(sampler, reason),
        )
        self.internal(op, follow)

    def _sampler_failed(self, sampler: SamplingSession, failure: Failure) -> None:
        sampler.loading = False
        held, sampler.held = sampler.held, []
        for record in held:
            # The sampler stays: a sample that comes later makes the engine try again.
            self._outcomes.fail(record, f"sampling session {sampler.id}: {failure.message}", failure.category)

    def _sampler_given_up(self, sampler: SamplingSession, reason: str) -> None:
        # Whoever samples from it would make the engine try again.
        self._damaged(sampler, f"its weights cannot be loaded: {reason}")

    def lose_snapshots(self, model_id: str, reason: str) -> None:
        """A model is not rebuilt: snapshots of it that are not on disk yet are lost, and who samples from them is told.

        Args:
            model_id: the model.
            reason: why it is not.
        """
        for sampler in list(self._live.samplers.values()):
            if sampler.model_id == model_id and not (sampler.on_disk or sampler.ready):
                self._damaged(sampler, f"its weights were not on disk yet, and {reason}")

    def _damaged(self, sampler: SamplingSession, reason: str) -> None:
        sampler.damage = reason
        self._sampler_failed(sampler, Failure("", reason, RequestErrorCategory.SERVER))

    async def sampler_ready(self, sampler: SamplingSession) -> None:
        """The engine holds a sampler: hand over the samples that waited for it."""
        sampler.loading = False
        sampler.ready = True
        if sampler.base_weights is None:
            self._begin_with(sampler)
        held, sampler.held = sampler.held, []
        for record in held:
            # It may have been cancelled while others were handed over.
            if record.state is State.PENDING:
                await self._hand_over(record, replay=False)

    async def _sampler_loaded(self, sampler: SamplingSession) -> None:
        await self.sampler_ready(sampler)
        # For a snapshot, whose client waits, this comes when it is on disk.
        self.make_room(sampler)

    def _begin_with(self, sampler: SamplingSession) -> None:
        """Note which weights of its base model a sampler has begun with."""
        sampler.base_weights = self._catalog.weights_digest(sampler.base_model)
        if sampler.base_weights is not None:
            values = {"base_weights": sampler.base_weights}
            statement = update(SamplerRow).where(SamplerRow.id == sampler.id).values(values)
            # Beside it: the samples that wait need not wait for this.
            self._core.tasks.start(self._db.write_until_stored(lambda connection: connection.execute(statement)))

    def release_sampler(self, sampler: SamplingSession) -> None:
        """Free a sampler's memory in the engine; it can be loaded again while its files are there."""
        if sampler.ready or sampler.loading:
            # A sample that comes from now on has it loaded again, behind the release.
            sampler.ready = sampler.loading = False
            self.internal(Operation(new_id(), ReleaseSampler(sampler.id), sampler.base_model, owner=sampler.owner))

    def rest(self) -> None:
        """Release the samplers that may leave the engine's memory."""
        for sampler in to_rest(self._core):
            self.release_sampler(sampler)

    def make_room(self, newcomer: SamplingSession) -> None:
        """Do so if a newcomer's base model has more samplers in memory than may stay."""
        if is_crowded(self._core, newcomer.base_model):
            self.rest()
