"""Saving what a killed script had trained: the next embedded service rebuilds its runs and saves them."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from tinsmith.adapter_files.manifest import read_manifest
from tinsmith.logs import starting
from tinsmith.server.engine_link.dispatcher import Dispatcher, Internal
from tinsmith.server.state.records import Record, State, new_id
from tinsmith.server.store.checkpoint_store import Saved
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RunRow
from tinsmith.server.store.earlier_life import end_dead
from tinsmith.server.store.folder.folder_lock import claim_dead
from tinsmith.server.store.journal.run_log import RunLog, leaves_nothing
from tinsmith.server.store.unsaved import KEPT_DAYS, KEPT_S, TRIES, UnsavedRun, note_tries, tries, unsaved_runs
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operations import LoadState, Operation, ReleaseModel, SaveState, Work
from tinsmith.types.errors import Damaged, TinsmithError
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.names.paths import CheckpointPath

log = logging.getLogger("tinsmith.server")

NAME = "recovered"
# How often it is asked whether the engine is still there, seconds.
_LOOK_S = 0.5


class _Stopped(Exception):
    """The service is being stopped."""


class LeftBehind:
    """Saves the runs of embedded services whose process was killed, once their base model is loaded."""

    def __init__(self, core: Core, dispatcher: Dispatcher) -> None:
        self._core = core
        self._dispatcher = dispatcher
        self._log = RunLog(core.data_folder)
        self._busy = asyncio.Lock()
        self._stopping = False

    async def recover(self, model: BaseModelInfo) -> None:
        """Save what killed scripts had trained of a base model and not saved; what cannot be is told in a warning.

        It holds the locks of the dead services meanwhile, so that no two scripts save the same run.
        """
        async with self._busy:
            if not self._stopping:
                await self._recover(model)

    async def stop(self) -> None:
        """Leave what is not saved yet to the next start."""
        self._stopping = True
        async with self._busy:
            return

    async def _recover(self, model: BaseModelInfo) -> None:
        core, dead = self._core, claim_dead(self._core.data_folder.root)
        try:
            try:
                for instance, lock in dead:
                    for run in await unsaved_runs(core, instance):
                        if run.base_model == model.name and _fits(run, model):
                            await self._try(run, lock.holder())
            finally:
                await end_dead(core, dead)
        except _Stopped:
            return
        except (SQLAlchemyError, OSError) as error:
            # A full disk, say: no reason for a script not to start.
            starting.warning("what scripts that were killed had not saved is left for the next start: %s", error)
        finally:
            for _, lock in dead:
                lock.release()

    async def _try(self, run: UnsavedRun, who: str) -> None:
        tried = tries(self._core, run.id)
        try:
            note_tries(self._core, run.id, tried + 1)
            saved, steps = await self._save(run)
        except (TinsmithError, Damaged, SQLAlchemyError, OSError, ValueError) as error:
            more = "the next start tries again" if tried + 1 < TRIES else "it is given up"
            starting.warning(
                "run %s of a script that was killed (%s) could not be saved: %s; %s", run.id, who, error, more
            )
            return
        except BaseException:
            # Interrupted or stopped: that says nothing of the run.
            note_tries(self._core, run.id, tried)
            raise
        starting.warning(
            "a script that was killed (%s) had not saved run %s: its state after optimizer step %d is %s, kept for "
            "%d days; create_training_client_from_state_with_optimizer(path) goes on from it",
            who,
            run.id,
            steps,
            saved.path,
            KEPT_DAYS,
        )

    async def _save(self, run: UnsavedRun) -> tuple[Saved, int]:
        """Rebuild a run in the engine, save it, and let go of it; return the checkpoint and its optimizer steps."""
        core = self._core
        path = await self._free_path(run)
        folder = core.data_folder.new_checkpoint(run.id, path.kind, path.name)
        absolute = core.data_folder.absolute(folder)
        try:
            await self._rebuild(run, str(absolute))
            manifest = read_manifest(absolute)
            if manifest is None:
                raise Damaged(f"checkpoint {folder}: its manifest is gone")
        except BaseException:
            await core.data_folder.remove(folder)
            raise
        steps, now = int(manifest["step"]), core.clock.wall()
        saved = Saved(
            path=path,
            owner=run.owner,
            folder=folder,
            base_model=run.base_model,
            lora=run.lora,
            size_bytes=sum(file.stat().st_size for file in absolute.iterdir()),
            public=False,
            user_metadata={**(run.user_metadata or {}), "recovered": "true", "optimizer_steps": str(steps)},
            created_at=now,
            expires_at=now + KEPT_S,
        )
        ended = update(RunRow).where(RunRow.id == run.id).values(status="ended")
        # Both or neither: a run that is ended is not saved again.
        await core.db.write(lambda c: (core.checkpoints.insert(c, saved), c.execute(ended)))
        await core.data_folder.remove(core.data_folder.recovery(run.id))
        return saved, steps

    async def _free_path(self, run: UnsavedRun) -> CheckpointPath:
        path, number = CheckpointPath(run.id, "weights", NAME), 1
        while await self._core.checkpoints.find(path) is not None:
            number += 1
            path = CheckpointPath(run.id, "weights", f"{NAME}-{number}")
        return path

    async def _rebuild(self, run: UnsavedRun, folder: str) -> None:
        """Replay a run and write its state.

        Raises:
            Damaged, TinsmithError: an operation cannot be read, failed where it had succeeded, or the engine was lost.
        """
        life, waiting = self._dispatcher.life, list[asyncio.Future[None]]()
        try:
            if (point := run.point) is not None:
                source = str(self._core.data_folder.absolute(point.folder))
                work = LoadState(source, optimizer=True, lora=run.lora, next_seq=point.seq_id + 1)
                waiting.append(self._hand_over(self._own(run, work)))
            for record in run.operations:
                waiting += await self._replay(record)
            last = max([point.seq_id if point else 0, *(record.seq_id or 0 for record in run.operations)])
            waiting.append(self._hand_over(self._own(run, SaveState(folder), last + 1)))
            await self._finished(waiting, life)
        finally:
            for one in waiting:
                one.cancel()
            if life == self._dispatcher.life:
                self._dispatcher.internal(self._own(run, ReleaseModel()))

    async def _replay(self, record: Record) -> list[asyncio.Future[None]]:
        if record.state is not State.DONE or leaves_nothing(record):
            self._dispatcher.skip(record)
            return []
        body = await asyncio.to_thread(self._log.body, record)
        return [self._hand_over(self._dispatcher.operation(record, body, None, replay=True))]

    def _own(self, run: UnsavedRun, work: Work, seq_id: int | None = None) -> Operation:
        return Operation(new_id(), work, run.base_model, run.id, seq_id, owner=run.owner)

    def _hand_over(self, op: Operation) -> asyncio.Future[None]:
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            if not outcome.done():
                outcome.set_result(None)

        def failed(failure: Failure) -> None:
            given_up(failure.message)

        def given_up(reason: str) -> None:
            if not outcome.done():
                outcome.set_exception(TinsmithError(f"{op.kind}: {reason}"))

        self._dispatcher.internal(op, Internal(op.kind, op.model_id or "", done, failed, given_up))
        return outcome

    async def _finished(self, waiting: list[asyncio.Future[None]], life: int) -> None:
        while True:
            done, rest = await asyncio.wait(waiting, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            for one in done:
                one.result()
            if not rest:
                return
            if self._stopping:
                raise _Stopped
            # What a lost engine was told has no outcome.
            if life != self._dispatcher.life:
                raise TinsmithError("the engine was lost meanwhile")


def _fits(run: UnsavedRun, model: BaseModelInfo) -> bool:
    """Whether a base model has the weights that a run began with; they may come back."""
    if None in (run.base_weights, model.weights_digest) or run.base_weights == model.weights_digest:
        return True
    starting.warning(
        "run %s of a script that was killed is not saved: base model %r has other weights than the run began with",
        run.id,
        model.name,
    )
    return False
