"""The door of saves: training states, weights to sample from, snapshots for one sampling session."""

from __future__ import annotations

from tinsmith.server.faults import Unavailable
from tinsmith.server.handlers.intake.bodies import canonical, read_object, validate
from tinsmith.server.handlers.intake.limits import Limits, saved_bytes
from tinsmith.server.handlers.intake.model_order import ModelOrder, Prepared, is_count
from tinsmith.server.state.live import SamplingSession, TrainingRun
from tinsmith.server.state.notes import SaveNote
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.checkpoint_store import check_ttl
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import digest
from tinsmith.types.engine_messages.operations import OpKind, SaveSampler, SaveState, TakeSnapshot
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.names.ids import sampling_session_id
from tinsmith.types.names.paths import CheckpointPath, check_name
from tinsmith.types.requests import SaveWeightsForSamplerRequest, SaveWeightsRequest

# How long a load waits for a checkpoint that is still being saved before the client is asked to repeat it.
_SAVE_WAIT_S = 20.0


class SavingHandler:
    """Turns saves into operations."""

    def __init__(self, core: Core, model_order: ModelOrder, limits: Limits) -> None:
        self._limits = limits
        self._model_order = model_order
        self._settings = core.settings
        self._live = core.live
        self._catalog = core.catalog
        self._checkpoints = core.checkpoints
        self._data_folder = core.data_folder
        self._futures = core.futures

    async def save_weights(self, owner: str, body: bytes) -> Record:
        """Accept a save of weights and optimizer."""
        fields = await read_object(body)
        record = Record(OpKind.SAVE_STATE, owner, payload_hash=digest(canonical(fields)))

        async def prepare(run: TrainingRun, record: Record) -> Prepared:
            request = validate(SaveWeightsRequest, fields)
            path = CheckpointPath(run.id, "weights", check_name(request.path, "path"))
            return await self._prepare_save(run, record, path, request)

        return await self._model_order.accept_json(record, fields, prepare)

    async def save_weights_for_sampler(self, owner: str, body: bytes) -> Record:
        """Accept a save of weights to sample from, under a name or for one sampling session."""
        fields = await read_object(body)
        kind = OpKind.SNAPSHOT if fields.get("path") is None else OpKind.SAVE_SAMPLER
        same = fields
        if kind is OpKind.SNAPSHOT:
            # The official SDK takes another number for the sampling session when it repeats a request whose answer was
            # lost. It is the same snapshot all the same, and its answer names the session of the first.
            same = {name: value for name, value in fields.items() if name != "sampling_session_seq_id"}
        record = Record(kind, owner, payload_hash=digest(canonical(same)))

        async def prepare(run: TrainingRun, record: Record) -> Prepared:
            request = validate(SaveWeightsForSamplerRequest, fields)
            if request.kind != "snapshot":
                raise invalid("kind", request.kind, "'snapshot' (weights that change under a sampler are not served)")
            if request.path is not None:
                path = CheckpointPath(run.id, "sampler_weights", check_name(request.path, "path"))
                return await self._prepare_save(run, record, path, request)
            if request.sampling_session_seq_id is None:
                raise invalid("sampling_session_seq_id", None, "a number, or a name in path")
            return self._prepare_snapshot(run, record, request.sampling_session_seq_id)

        return await self._model_order.accept_json(record, fields, prepare)

    async def save_weights_external(self, owner: str, body: bytes) -> Record:
        """Refuse an export, which is not served."""
        fields = await read_object(body)
        record = Record(OpKind.SKIP, owner, payload_hash=digest(canonical(fields)))

        async def prepare(run: TrainingRun, record: Record) -> Prepared:
            raise UserError(
                # Refused here, so that it takes its place in the order and fails there.
                "save_weights_external: not supported by this service; save_weights_for_sampler and "
                "`tinsmith checkpoint export` give a plain PEFT folder"
            )

        return await self._model_order.accept_json(record, fields, prepare)

    async def _prepare_save(
        self,
        run: TrainingRun,
        record: Record,
        path: CheckpointPath,
        request: SaveWeightsRequest | SaveWeightsForSamplerRequest,
    ) -> Prepared:
        check_ttl(request.ttl_seconds, self._settings.checkpoint_min_ttl_s, self._settings.checkpoint_max_ttl_s)
        old = await self._checkpoints.find(path)
        taken = self._pending_save(run, path) is not None or old is not None
        if taken and not (isinstance(request, SaveWeightsRequest) and request.overwrite):
            raise invalid("path", path.name, "a name that this run has not used for this kind of checkpoint")
        size = saved_bytes(await self._catalog.find(run.base_model), run.lora, path.kind)
        await self._limits.check_stored(run.owner, "path", size, freed=old.size_bytes if old is not None else 0)
        # A folder of its own even where it overwrites: the old files stay until the row of the new ones is stored.
        folder = self._data_folder.new_checkpoint(run.id, path.kind, path.name)
        record.work = SaveState(folder) if path.kind == "weights" else SaveSampler(folder)
        record.note = SaveNote(path.name, request.ttl_seconds, request.user_metadata, size)
        return Prepared()

    def _prepare_snapshot(self, run: TrainingRun, record: Record, number: int) -> Prepared:
        if not is_count(number, 0):
            raise invalid("sampling_session_seq_id", number, "a whole number from 0")
        sampler_id = sampling_session_id(run.session_id, number)
        if sampler_id in self._live.samplers:
            raise invalid("sampling_session_seq_id", number, "a number that no sampling session of this session has")
        folder = self._data_folder.sampler(sampler_id)
        sampler = SamplingSession(
            sampler_id,
            run.session_id,
            run.owner,
            run.base_model,
            # Until the host says `Flushed`, only the engine's memory has its weights.
            folder=folder,
            on_disk=False,
            model_id=run.id,
            model_seq=record.seq_id,
        )
        record.sampler_id = sampler_id
        record.work = TakeSnapshot(sampler_id, folder)
        # There at once, not when the snapshot is made: samples may come before, and wait for it.
        return Prepared(reserve=lambda: self._live.add_sampler(sampler), undo=lambda: self._live.drop_sampler(sampler))

    def _pending_save(self, run: TrainingRun, path: CheckpointPath) -> Record | None:
        kind = OpKind.SAVE_STATE if path.kind == "weights" else OpKind.SAVE_SAMPLER
        for record in run.ops.values():
            same = record.kind is kind and isinstance(record.note, SaveNote) and record.note.name == path.name
            # One that is done has no row before its outcome is stored.
            if same and record.state is not State.FAILED and not record.settled.is_set():
                return record
        return None

    async def settle_save(self, path: CheckpointPath, readers: set[str]) -> None:
        """Wait for a checkpoint that is being saved right now.

        Raises:
            Unavailable: it still is after a while.
        """
        run = self._live.runs.get(path.run_id)
        # What another key is saving is nobody else's business: its reader is told that there is no such checkpoint.
        saving = self._pending_save(run, path) if run is not None and run.owner in readers else None
        if saving is not None and not await self._futures.wait(saving, _SAVE_WAIT_S):
            raise Unavailable(f"path: {path} is still being saved; retry")
