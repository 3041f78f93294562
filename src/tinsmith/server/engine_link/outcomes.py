"""From an engine's outcome to the answer that a client gets, and to what the outcome changes."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, insert, update

from tinsmith.server.faults import NotOurs
from tinsmith.server.state.live import RunStatus, SamplingSession, TrainingRun
from tinsmith.server.state.notes import LoadNote, SampleNote, SaveNote
from tinsmith.server.state.records import Record, State
from tinsmith.server.state.tasks import Tasks
from tinsmith.server.store.checkpoint_store import Saved
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RunRow, SamplerRow
from tinsmith.server.store.journal.journal import Effect
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    LoadState,
    OpKind,
    Sample,
    SaveSampler,
    SaveState,
    TakeSnapshot,
)
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.names.http_names import JSON
from tinsmith.types.names.paths import CheckpointKind, CheckpointPath

log = logging.getLogger("tinsmith.server")

# Between tries to store an outcome, seconds; the last one over and over.
_RETRY_S = (0.5, 1, 2, 5, 10, 30)

# Made once, of the table: making it for each sampler takes longer than writing the row.
_ADD_SAMPLER = insert(SamplerRow.metadata.tables[SamplerRow.__tablename__])

# What is done once an outcome is stored, before its client is told.
After = Callable[[], Awaitable[None]]


class Outcomes:
    """Settles operations: stores the outcome, then wakes whoever polls for it."""

    def __init__(self, core: Core) -> None:
        self._wall = core.clock.wall
        self._futures = core.futures
        self._journal = core.journal
        self._live = core.live
        self._catalog = core.catalog
        self._checkpoints = core.checkpoints
        self._recordings = core.recordings
        self._data_folder = core.data_folder
        self._clear = core.data_folder.remove if core.belongs else core.data_folder.set_aside
        self._tasks = core.tasks
        self._storing = Tasks()

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def result(self, record: Record, event: Result, *after: After) -> None:
        """Settle an operation with its result."""
        if record.state is not State.PENDING:
            return
        # Settled in memory at once, so that nothing else settles it; its client is told once it is stored.
        answer, effects, own = self._answer(record, event)
        record.succeed(
            answer if answer is not None else event.payload, JSON if answer is not None else event.media_type
        )
        record.settled_at = self._futures.now()
        self._storing.start(self._store(record, effects, [*own, *after]))

    def failure(self, record: Record, event: Failure) -> None:
        """Settle an operation with an engine's error."""
        message = event.message
        if isinstance(record.note, LoadNote):  # the engine knows only the folder that the checkpoint was pinned to
            message = f"{record.note.path}: {message}"
        self.fail(record, message, event.category)

    def fail(self, record: Record, message: str, category: RequestErrorCategory) -> None:
        """Settle an operation with an error."""
        if record.state is not State.PENDING:
            return
        record.fail(message, category)
        record.settled_at = self._futures.now()
        effects: list[Effect] = []
        # Whatever the engine has written of it. By a database that is not the folder's, it may have been acknowledged.
        if (folder := record.checkpoint_folder) is not None:
            self._tasks.start(self._clear(folder))
        if record.kind is OpKind.SNAPSHOT and (sampler := self._live.samplers.get(record.sampler_id or "")):
            self._live.drop_sampler(sampler)
        if isinstance(record.note, SampleNote) and record.note.recorded:
            effects.append(self._recordings.drop(record))
        run = self._live.runs.get(record.model_id or "")
        if run is not None and run.creation is record:
            effects.append(self.end_run(run, RunStatus.FAILED, message, category))
        self._storing.start(self._store(record, effects))

    def end_run(self, run: TrainingRun, status: RunStatus, message: str, category: RequestErrorCategory) -> Effect:
        """Make a run unusable: what waits for it fails. Return what to store."""
        run.status = status
        run.error = message
        # Its creation is left to the caller, who may be failing it right now.
        for waiting in self._futures.pending_of(run.session_id):
            if waiting.model_id == run.id and waiting is not run.creation:
                self.fail(waiting, f"model {run.id}: {message}", category)
        statement = update(RunRow).where(RunRow.id == run.id).values(status=status.value, error=message)
        return lambda connection: connection.execute(statement)

    async def _store(self, record: Record, effects: Sequence[Effect], after: Sequence[After] = ()) -> None:
        for delay in itertools.chain(_RETRY_S, itertools.repeat(_RETRY_S[-1])):
            try:
                await self._journal.settle(record, effects)
                break
            except NotOurs:
                return  # it stays without an outcome here; whoever has the journal now runs it again
            except Exception:
                # A full disk, say. The outcome stays in memory and the client goes on polling until it is stored.
                log.exception("the outcome of %s could not be stored; next try in %g s", record.request_id, delay)
                await asyncio.sleep(delay)
        for work in after:
            await work()
        self._futures.mark_settled(record)

    async def stored(self, seconds: float) -> None:
        """Wait until the outcomes that came in are stored, for at most so long."""
        await self._storing.finish(seconds)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, record: Record, event: Result) -> tuple[bytes | None, list[Effect], list[After]]:
        """Return the answer's JSON (None: the engine's payload as it is), what to store with it, what to do after."""
        match record.work, record.note:
            case CreateModel() | LoadState(), _:
                return self._model_answer(record)
            case SaveState(folder) | SaveSampler(folder), SaveNote() as note:
                return self._save_answer(record, folder, note, orjson.loads(event.payload))
            case TakeSnapshot(), _:
                return self._snapshot_answer(record)
            case Sample(), SampleNote(recorded=True):
                return None, [self._recordings.complete(record, event.payload)], []
            case _:
                return None, [], []

    def _model_answer(self, record: Record) -> tuple[bytes, list[Effect], list[After]]:
        answer: dict[str, Any] = {"type": "create_model", "model_id": record.model_id}
        if isinstance(record.note, LoadNote):
            answer |= {"type": "load_weights", "path": record.note.path}
        effects: list[Effect] = []
        run = self._live.runs.get(record.model_id or "")
        if run is not None and run.creation is record and run.status is RunStatus.CREATING:
            run.status = RunStatus.LIVE
            run.base_weights = self._catalog.weights_digest(run.base_model)
            values = {"status": RunStatus.LIVE.value, "base_weights": run.base_weights}
            statement = update(RunRow).where(RunRow.id == run.id).values(values)
            effects.append(lambda connection: connection.execute(statement))
        return orjson.dumps(answer), effects, []

    def _save_answer(
        self, record: Record, folder: str, note: SaveNote, payload: dict[str, Any]
    ) -> tuple[bytes, list[Effect], list[After]]:
        kind: CheckpointKind = "weights" if record.kind is OpKind.SAVE_STATE else "sampler_weights"
        now = self._wall()
        saved = Saved(
            path=CheckpointPath(record.model_id or "", kind, note.name),
            owner=record.owner,
            folder=folder,
            base_model=record.base_model,
            lora=self._live.runs[record.model_id or ""].lora,
            size_bytes=payload["size_bytes"],
            public=False,
            user_metadata=note.user_metadata,
            created_at=now,
            expires_at=now + note.ttl_seconds if note.ttl_seconds else None,
        )
        # The effect fills it on the writer's thread. Old files go once the row of the new ones is committed.
        replaced: list[str | None] = []

        async def remove_replaced() -> None:
            for folder in replaced:
                if folder is not None:
                    await self._data_folder.remove(folder)

        answer_type = "save_weights" if kind == "weights" else "save_weights_for_sampler"
        answer = {"path": str(saved.path), "type": answer_type}
        insert_row: Effect = lambda connection: replaced.append(self._checkpoints.insert(connection, saved))  # noqa: E731
        return orjson.dumps(answer), [insert_row], [remove_replaced]

    def _snapshot_answer(self, record: Record) -> tuple[bytes, list[Effect], list[After]]:
        answer = {"sampling_session_id": record.sampler_id, "type": "save_weights_for_sampler"}
        sampler = self._live.samplers.get(record.sampler_id or "")
        if sampler is not None:
            sampler.base_weights = self._catalog.weights_digest(sampler.base_model)
        return orjson.dumps(answer), [insert_sampler(sampler)] if sampler is not None else [], []


def insert_sampler(sampler: SamplingSession) -> Effect:
    """Return what stores a sampling session."""

    def effect(connection: Connection) -> None:
        row = {
            "id": sampler.id,
            "session_id": sampler.session_id,
            "owner": sampler.owner,
            "base_model": sampler.base_model,
            "model_path": sampler.model_path,
            "folder": sampler.folder,
            "on_disk": sampler.on_disk,
            "model_id": sampler.model_id,
            "model_seq": sampler.model_seq,
            "created_at": sampler.created_at,
            "base_weights": sampler.base_weights,
        }
        connection.execute(_ADD_SAMPLER, row)

    return effect
