"""The door of new models: made fresh, or loaded from a checkpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Connection, insert

from tinsmith.server.handlers.intake.bodies import canonical, read_object, validate
from tinsmith.server.handlers.intake.intake import Intake
from tinsmith.server.handlers.intake.limits import Limits
from tinsmith.server.handlers.intake.model_order import ModelOrder, Prepared, is_count
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.state.live import LiveSession, TrainingRun
from tinsmith.server.state.notes import LoadNote
from tinsmith.server.state.records import Record
from tinsmith.server.store.checkpoint_store import Saved
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RunRow
from tinsmith.server.store.journal.journal import Effect, digest
from tinsmith.types.checks.validation import check_lora
from tinsmith.types.engine_messages.operations import CreateModel, LoadState, OpKind
from tinsmith.types.errors import Damaged, RequestErrorCategory, UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.names.ids import training_run_id
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.params import LoraConfig
from tinsmith.types.requests import CreateModelRequest, LoadWeightsRequest

ADAM = "adamw"


class CreationHandler:
    """Turns requests for models into operations."""

    def __init__(
        self, core: Core, intake: Intake, model_order: ModelOrder, saving: SavingHandler, limits: Limits
    ) -> None:
        self._limits = limits
        self._intake = intake
        self._model_order = model_order
        self._saving = saving
        self._settings = core.settings
        self._live = core.live
        self._catalog = core.catalog
        self._checkpoints = core.checkpoints
        self._data_folder = core.data_folder

    async def create_model(self, owner: str, body: bytes) -> Record:
        """Accept the creation of a model."""
        fields = await read_object(body)
        record = Record(OpKind.CREATE_MODEL, owner, payload_hash=digest(canonical(fields)))

        async def prepare(record: Record) -> LoraConfig:
            request = validate(CreateModelRequest, fields)
            _check_optimizer(request.optimizer_config.type)
            await self._catalog.find(request.base_model)
            lora = LoraConfig.model_validate(request.lora_config.model_dump())
            check_lora(lora, self._settings.max_lora_rank)
            record.base_model = request.base_model
            record.work = CreateModel(lora)
            return lora

        return await self._accept(record, fields, prepare)

    async def load_weights(self, owner: str, body: bytes, token_owner: str | None) -> Record:
        """Accept the loading of a checkpoint, as a new model or into one that exists.

        Args:
            token_owner: whom the request's `weights_access_token` belongs to, if it has one; that owner's checkpoints
                can be loaded, too.
        """
        fields = await read_object(body)
        record = Record(OpKind.LOAD_STATE, owner, payload_hash=digest(canonical(fields)))
        readers = {owner} | ({token_owner} if token_owner is not None else set())

        async def prepare_new(record: Record) -> LoraConfig:
            request = validate(LoadWeightsRequest, fields)
            _check_optimizer(request.optimizer_config.type if request.optimizer_config else ADAM)
            saved = await self._saved_state(request, readers)
            record.base_model = await self._base_of(saved, request.base_model)
            await self._prepare_load(record, saved, request, record.model_id or "")
            return saved.lora

        async def prepare_existing(run: TrainingRun, record: Record) -> Prepared:
            request = validate(LoadWeightsRequest, fields)
            saved = await self._saved_state(request, readers)
            if await self._base_of(saved, run.base_model) != run.base_model:
                raise invalid("path", request.path, f"a checkpoint of base model {run.base_model}")
            if _shape(saved.lora) != _shape(run.lora):
                raise invalid("path", request.path, f"a checkpoint of an adapter with {_shape(run.lora)}")
            await self._prepare_load(record, saved, request, run.id)
            return Prepared()

        if fields.get("model_id") is not None:
            return await self._model_order.accept_json(record, fields, prepare_existing)
        return await self._accept(record, fields, prepare_new)

    async def load_adapter(
        self, session: LiveSession, base_model: str, lora: LoraConfig, folder: str, note: LoadNote
    ) -> Record:
        """Accept the loading of an adapter made elsewhere as the first model of a session.

        Args:
            lora: a shape that holds it.
            folder: its PEFT folder, among what the run is rebuilt from.
            note: what else the record is to keep.
        """

        async def prepare(record: Record) -> LoraConfig:
            record.base_model = base_model
            record.work = LoadState(folder, optimizer=False, lora=lora)
            return lora

        # Noted before anything can be refused: a refused load, too, is asked how it was to be saved.
        record = Record(OpKind.LOAD_STATE, session.owner, note=note)
        return await self._accept(record, {"session_id": session.id, "model_seq_id": 0}, prepare)

    async def _saved_state(self, request: LoadWeightsRequest, readers: set[str]) -> Saved:
        path = CheckpointPath.parse(request.path)
        if path.kind != "weights":
            raise invalid("path", request.path, "a training state (tinker://RUN/weights/NAME)")
        await self._saving.settle_save(path, readers)
        return await self._checkpoints.readable(path, readers)

    async def _base_of(self, saved: Saved, wanted: str | None) -> str:
        """Return the base model to load a checkpoint onto: its own, or another of the same shape."""
        name = wanted if wanted is not None else saved.base_model
        info = await self._catalog.find(name)
        if name != saved.base_model:
            # A sibling of the same shape will do, the instruct form of a base model say: the adapter fits its matrices.
            own = self._catalog.known(saved.base_model)
            if own is None or _same_shape(own) != _same_shape(info):
                raise invalid(
                    "base_model", name, f"{saved.base_model}, which the checkpoint {saved.path} was made with"
                )
        return name

    async def _prepare_load(self, record: Record, saved: Saved, request: LoadWeightsRequest, model_id: str) -> None:
        # Links to the files as they are now: the checkpoint may be deleted or replaced before the load runs, or runs
        # again.
        pinned = self._data_folder.new_recovery(model_id, "loaded")
        await self._data_folder.pin(saved.folder, pinned)
        record.work = LoadState(pinned, request.optimizer, saved.lora)
        record.note = LoadNote(request.path)

    # -- what both have in common -------------------------------------------------------------------------------------

    async def _accept(
        self, record: Record, fields: dict[str, Any], prepare: Callable[[Record], Awaitable[LoraConfig]]
    ) -> Record:
        session_id, number = fields.get("session_id"), fields.get("model_seq_id")
        try:
            if not isinstance(session_id, str) or not is_count(number, 0):
                raise invalid("model_seq_id", number, "a whole number from 0, with a session_id")
            self._live.session(session_id, record.owner)
        except UserError as error:
            return await self._intake.refuse(record, error.message)
        record.session_id = session_id
        record.model_id = training_run_id(session_id, number)
        record.scope = f"model:{record.model_id}"
        if self._intake.known(record.scope):
            return await self._intake.accept(record)
        try:
            # After the repeats, which are no further runs, and before what a load leaves on disk.
            self._limits.check_runs(record.owner)
            lora = await prepare(record)
            self._live.session(session_id, record.owner)  # it may have ended meanwhile
            self._limits.check_runs(record.owner)  # and others may have begun
        except UserError as error:
            return await self._intake.accept(record.refuse(error.message))
        except Damaged as error:
            return await self._intake.accept(record.refuse(str(error), RequestErrorCategory.SERVER))
        run = TrainingRun(record.model_id, session_id, record.owner, record.base_model, lora, creation=record)
        return await self._intake.accept(
            record,
            [_insert_run(run, fields.get("user_metadata"))],
            reserve=lambda: self._live.add_run(run),
            undo=lambda: self._live.drop_run(run),
        )


def _check_optimizer(name: str) -> None:
    if name != ADAM:
        raise invalid("optimizer_config.type", name, f"{ADAM!r}, the one optimizer of this service")


def _shape(lora: LoraConfig) -> str:
    parts = [name for name in ("attn", "mlp", "unembed") if getattr(lora, f"train_{name}")]
    return f"rank {lora.rank} on {', '.join(parts)}"


def _same_shape(info: BaseModelInfo) -> tuple[Any, ...]:
    return (info.architecture, info.vocab_size, info.hidden_size, info.num_layers, info.is_moe)


def _insert_run(run: TrainingRun, user_metadata: dict[str, Any] | None) -> Effect:
    def effect(connection: Connection) -> None:
        row = {
            "id": run.id,
            "session_id": run.session_id,
            "owner": run.owner,
            "base_model": run.base_model,
            "lora": run.lora.model_dump(),
            "status": run.status.value,
            "user_metadata": user_metadata,
            "created_at": run.last_request_at,
            "last_request_at": run.last_request_at,
        }
        connection.execute(insert(RunRow), row)

    return effect
