"""The door of sampling: sampling sessions, and requests to them."""

from __future__ import annotations

import secrets

import anyio.to_thread
import orjson

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.outcomes import insert_sampler
from tinsmith.server.faults import Unavailable
from tinsmith.server.handlers.bodies import canonical, parse, parse_object, validate
from tinsmith.server.handlers.intake import Intake
from tinsmith.server.handlers.model_order import is_count
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.live import LiveState, SamplingSession
from tinsmith.server.state.notes import SampleNote
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.catalog import Catalog
from tinsmith.server.store.checkpoint_store import CheckpointStore
from tinsmith.server.store.db import Database
from tinsmith.server.store.folders import DataFolder
from tinsmith.server.store.journal import digest
from tinsmith.settings import Settings
from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.errors import RequestErrorCategory, UserError, invalid
from tinsmith.types.operations import OpKind, Sample
from tinsmith.types.paths import CheckpointPath
from tinsmith.types.requests import CreateSamplingSessionRequest, SampleRequest
from tinsmith.types.tensor import TensorData
from tinsmith.types.validation import check_sampling, check_tokens

_INLINE_CHECK_BYTES = 128 * 1024


class SamplingHandler:
    """Turns sampling requests into operations."""

    def __init__(
        self,
        settings: Settings,
        live: LiveState,
        db: Database,
        catalog: Catalog,
        checkpoints: CheckpointStore,
        folders: DataFolder,
        futures: FutureStore,
        dispatcher: Dispatcher,
        intake: Intake,
        saving: SavingHandler,
    ) -> None:
        self._settings = settings
        self._live = live
        self._db = db
        self._catalog = catalog
        self._checkpoints = checkpoints
        self._folders = folders
        self._futures = futures
        self._dispatcher = dispatcher
        self._intake = intake
        self._saving = saving

    # -- sampling sessions --------------------------------------------------------------------------------------------

    async def create_session(self, owner: str, body: bytes) -> str:
        """Make a sampling session of a base model or of saved weights; return its id. A repeat returns the same.

        Raises:
            UserError: the request is at fault.
        """
        request = parse(CreateSamplingSessionRequest, body)
        session = self._live.session(request.session_id, owner)
        if not is_count(request.sampling_session_seq_id, 0):
            raise invalid("sampling_session_seq_id", request.sampling_session_seq_id, "a whole number from 0")
        sampler_id = f"{session.id}:sample:{request.sampling_session_seq_id}"
        if sampler_id in self._live.samplers:
            return self._repeated(request, self._live.samplers[sampler_id])
        sampler = await self._make(request, sampler_id, owner)
        if sampler_id in self._live.samplers:  # a repeat was quicker
            return self._repeated(request, self._live.samplers[sampler_id])
        self._live.session(session.id, owner)
        self._live.add_sampler(sampler)
        try:
            await self._db.write(insert_sampler(sampler))
        except BaseException:
            self._live.drop_sampler(sampler)
            raise
        self._dispatcher.load_sampler(sampler)
        return sampler_id

    def _repeated(self, request: CreateSamplingSessionRequest, sampler: SamplingSession) -> str:
        same = sampler.model_path == request.model_path and sampler.model_id is None
        if not same or request.base_model not in (None, sampler.base_model):
            number = request.sampling_session_seq_id
            raise invalid("sampling_session_seq_id", number, "a number that no other sampling session has")
        return sampler.id

    async def _make(self, request: CreateSamplingSessionRequest, sampler_id: str, owner: str) -> SamplingSession:
        if request.model_path is None:
            if request.base_model is None:
                raise invalid("model_path", None, "a checkpoint's path, or a base_model")
            await self._catalog.find(request.base_model)
            return SamplingSession(sampler_id, request.session_id, owner, request.base_model)
        path = CheckpointPath.parse(request.model_path, "model_path")
        if path.kind != "sampler_weights":
            raise invalid(
                "model_path", request.model_path, "weights to sample from (tinker://RUN/sampler_weights/NAME)"
            )
        await self._saving.settle_save(path, {owner})
        saved = await self._checkpoints.readable(path, {owner}, "model_path")
        await self._catalog.find(saved.base_model)
        if request.base_model not in (None, saved.base_model):
            raise invalid("base_model", request.base_model, f"{saved.base_model}, which {path} was made with")
        folder = self._folders.sampler(sampler_id)
        await self._folders.pin(saved.folder, folder)
        return SamplingSession(
            sampler_id, request.session_id, owner, saved.base_model, model_path=request.model_path, folder=folder
        )

    # -- samples ------------------------------------------------------------------------------------------------------

    async def sample(self, owner: str, body: bytes) -> Record:
        """Accept a sampling request.

        Raises:
            UserError: the body is no JSON object (400).
            Unavailable: too many requests wait already (429).
        """
        fields = parse_object(body)
        record = Record(OpKind.SAMPLE, owner, payload_hash=digest(canonical(fields)))
        record.note = SampleNote(0)
        try:
            request = validate(SampleRequest, fields)
            record.note = SampleNote(min(max(request.num_samples, 0), self._settings.max_samples))
            if not 0 <= request.seq_id < 2**63:
                raise invalid("seq_id", request.seq_id, "a whole number from 0")
            sampler = self._live.sampler(request.sampling_session_id, owner)
        except UserError as error:
            return await self._intake.refuse(record, error.message)
        record.session_id, record.sampler_id, record.base_model = sampler.session_id, sampler.id, sampler.base_model
        record.scope = f"sample:{sampler.id}:{request.seq_id}"
        if self._intake.known(record.scope):
            return await self._intake.accept(record)
        self._check_room()
        try:
            info = await self._catalog.find(sampler.base_model)
            if len(body) > _INLINE_CHECK_BYTES:
                await anyio.to_thread.run_sync(check_request, request, info, self._settings)
            else:
                check_request(request, info, self._settings)
            self._live.sampler(sampler.id, owner)  # its session may have ended meanwhile
        except UserError as error:
            return await self._intake.accept(record.refuse(error.message))
        record.body = orjson.dumps(_seeded(request).wire())
        record.work = Sample(sampler.id)
        return await self._intake.accept(record)

    def _check_room(self) -> None:
        limit = self._settings.max_queued_samples
        if self._futures.pending_samples >= limit:
            raise Unavailable(f"queue: {limit} sampling requests are waiting, which is the most; slow down", 429)

    def cancel(self, record: Record) -> None:
        """Drop a sample that is not done yet; other operations are left alone."""
        if record.kind is OpKind.SAMPLE and record.state is State.PENDING:
            self._dispatcher.cancel(record)
            self._dispatcher.fail(record, "the request was cancelled", RequestErrorCategory.USER)


def _seeded(request: SampleRequest) -> SampleRequest:
    """Choose a seed where the client left that to us, so that a replay draws the same tokens."""
    params = request.sampling_params
    if params.seed is not None:
        return request
    return request.model_copy(update={"sampling_params": params.model_copy(update={"seed": secrets.randbits(63)})})


def check_request(request: SampleRequest, info: BaseModelInfo, settings: Settings) -> None:
    """Check a sampling request against a base model.

    Raises:
        UserError: naming the field, the value and what was expected.
    """
    for index, chunk in enumerate(request.prompt.chunks):
        if chunk.type != "encoded_text":
            raise invalid(f"prompt.chunks[{index}].type", chunk.type, "encoded_text (the models served read text only)")
        if chunk.tokens is None:
            raise invalid(f"prompt.chunks[{index}].tokens", None, "a list of token ids")
    prompt = [token for chunk in request.prompt.chunks for token in chunk.tokens or ()]
    length = check_tokens("prompt", prompt, info)
    check_sampling(request.sampling_params, length, info, settings.max_stop_sequences)
    if not 1 <= request.num_samples <= settings.max_samples:
        raise invalid("num_samples", request.num_samples, f"1 to {settings.max_samples}")
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        if not 0 <= getattr(request, name) <= min(settings.max_topk, info.vocab_size):
            raise invalid(name, getattr(request, name), f"0 to {min(settings.max_topk, info.vocab_size)}")
    if request.record_stability_info:
        raise invalid("record_stability_info", True, "false: the loss that needs it is not served")
    last = request.prompt_logprobs_last_n
    if last is not None and not (request.prompt_logprobs and 1 <= last <= max(1, length - 1)):
        raise invalid("prompt_logprobs_last_n", last, f"1 to {max(1, length - 1)}, with prompt_logprobs")
    if request.target_prompt_logprobs is not None:
        _check_targets(TensorData.model_validate(request.target_prompt_logprobs), length, info, settings.max_topk)


def _check_targets(targets: TensorData, length: int, info: BaseModelInfo, most: int) -> None:
    field = "target_prompt_logprobs"
    if targets.dtype != "int64":
        raise invalid(f"{field}.dtype", targets.dtype, "int64")
    if len(targets.shape) != 2 or targets.shape[0] != length - 1 or not 1 <= targets.shape[1] <= most:
        raise invalid(f"{field}.shape", targets.shape, f"[{length - 1}, K] with K from 1 to {most}")
    values = targets.values
    if values.size and (int(values.min()) < -1 or int(values.max()) >= info.vocab_size):
        worst = int(values.min()) if int(values.min()) < -1 else int(values.max())
        raise invalid(field, worst, f"-1 or a token id from 0 to {info.vocab_size - 1}")
