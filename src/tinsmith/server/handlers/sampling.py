"""The door of sampling: sampling sessions, and requests to them."""

from __future__ import annotations

from dataclasses import replace

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.outcomes import Outcomes, insert_sampler
from tinsmith.server.handlers.intake.bodies import canonical, check_body, parse, read_object, validate
from tinsmith.server.handlers.intake.intake import Intake
from tinsmith.server.handlers.intake.model_order import is_count
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.json_bytes import to_bytes
from tinsmith.server.state.live import LiveSession, SamplingSession
from tinsmith.server.state.notes import SampleNote
from tinsmith.server.state.records import Record, State
from tinsmith.server.state.tasks import to_its_end
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import digest
from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_sampling
from tinsmith.types.engine_messages.operations import OpKind, Sample
from tinsmith.types.errors import RequestErrorCategory, UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.names.ids import sampling_session_id
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.requests import CreateSamplingSessionRequest, SampleRequest
from tinsmith.types.sample_inputs import SampleInputs, read_sample_inputs


class SamplingHandler:
    """Turns sampling requests into operations."""

    def __init__(
        self,
        core: Core,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        intake: Intake,
        saving: SavingHandler,
    ) -> None:
        self._limits = intake.limits
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._intake = intake
        self._saving = saving
        self._settings = core.settings
        self._live = core.live
        self._db = core.db
        self._catalog = core.catalog
        self._checkpoints = core.checkpoints
        self._data_folder = core.data_folder
        self._recordings = core.recordings

    # -- sampling sessions --------------------------------------------------------------------------------------------

    async def create_session(self, owner: str, body: bytes) -> str:
        """Make a sampling session of a base model or of saved weights; return its id. A repeat returns the same.

        Raises:
            UserError: the request is at fault.
        """
        request = await parse(CreateSamplingSessionRequest, body)
        session = self._live.session(request.session_id, owner)
        if not is_count(request.sampling_session_seq_id, 0):
            raise invalid("sampling_session_seq_id", request.sampling_session_seq_id, "a whole number from 0")
        sampler_id = sampling_session_id(session.id, request.sampling_session_seq_id)
        known = self._live.samplers.get(sampler_id)
        sampler = known if known is not None else await self._make(request, sampler_id, owner)
        return await to_its_end(self._add(session, sampler, request))

    async def _add(self, session: LiveSession, sampler: SamplingSession, request: CreateSamplingSessionRequest) -> str:
        # One after the other: a repeat is answered once the first one is stored, or is stored itself.
        async with session.changing:
            if (first := self._live.samplers.get(sampler.id)) is not None:
                return self._repeated(request, first)
            self._live.session(session.id, sampler.owner)  # it may have ended meanwhile
            self._live.add_sampler(sampler)
            try:
                await self._db.write(insert_sampler(sampler))
            except BaseException:
                self._live.drop_sampler(sampler)
                raise
        # Now, not at its first sample, which would wait for it.
        self._dispatcher.load_sampler(sampler)
        return sampler.id

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
            sampler = SamplingSession(sampler_id, request.session_id, owner, request.base_model)
            sampler.base_weights = self._catalog.weights_digest(request.base_model)
            return sampler
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
        folder = self._data_folder.sampler(sampler_id)
        # The checkpoint may be deleted while it is sampled from.
        await self._data_folder.pin(saved.folder, folder)
        return SamplingSession(
            sampler_id, request.session_id, owner, saved.base_model, model_path=request.model_path, folder=folder
        )

    # -- samples ------------------------------------------------------------------------------------------------------

    async def sample(self, owner: str, body: bytes) -> Record:
        """Accept a sampling request.

        Raises:
            UserError: the body is no JSON object (400).
            Unavailable: too many requests wait already, or too many tokens of the owner's are in flight (429).
        """
        fields = await read_object(body)
        payload_hash = await check_body(body, lambda: digest(canonical(fields)))
        record = Record(OpKind.SAMPLE, owner, payload_hash=payload_hash)
        record.note = SampleNote(0)
        try:
            request = await check_body(body, validate, SampleRequest, fields)
            promised = min(max(request.num_samples, 0), self._settings.max_samples)
            record.note = SampleNote(promised, request.record_stability_info)
            if not is_count(request.seq_id, 0):
                raise invalid("seq_id", request.seq_id, "a whole number from 0")
            sampler = self._live.sampler(request.sampling_session_id, owner)
        except UserError as error:
            return await self._intake.refuse(record, error.message)
        record.session_id, record.sampler_id, record.base_model = sampler.session_id, sampler.id, sampler.base_model
        record.scope = f"sample:{sampler.id}:{request.seq_id}"
        if self._intake.known(record.scope):
            return await self._intake.accept(record)
        if sampler.damage is not None:
            reason = f"sampling session {sampler.id}: {sampler.damage}"
            return await self._intake.accept(record.refuse(reason, RequestErrorCategory.SERVER))
        self._limits.check_queue(owner)
        try:
            info = await self._catalog.find(sampler.base_model)
            asked = await check_body(body, check_request, request, info, self._settings)
            self._live.sampler(sampler.id, owner)  # its session may have ended meanwhile
        except UserError as error:
            return await self._intake.accept(record.refuse(error.message))
        record.body = to_bytes(request.wire())
        record.work = Sample(sampler.id)
        record.note = replace(record.note, tokens=most_tokens(asked, info))
        self._limits.check_tokens(record)
        # With its operation: the prompt is at hand now, and what it is continued with is stored with the outcome.
        effects = [self._recordings.begin(record, asked.prompt)] if request.record_stability_info else []
        return await self._intake.accept(record, effects)

    def cancel(self, record: Record) -> None:
        """Drop a sample that is not done yet; other operations are left alone."""
        if record.kind is OpKind.SAMPLE and record.state is State.PENDING:
            self._dispatcher.cancel(record)
            self._outcomes.fail(record, "the request was cancelled", RequestErrorCategory.USER)


def most_tokens(asked: SampleInputs, info: BaseModelInfo) -> int:
    """Return the tokens of a request's prompt and of all that it may draw."""
    room = max(0, info.context_length - len(asked.prompt))
    drawn = room if asked.params.max_tokens is None else min(asked.params.max_tokens, room)
    return len(asked.prompt) + asked.num_samples * drawn


def check_request(request: SampleRequest, info: BaseModelInfo, settings: Settings) -> SampleInputs:
    """Check a sampling request against a base model; return what it asks for.

    Raises:
        UserError: naming the field, the value and what was expected.
    """
    asked = read_sample_inputs(request)
    check_sampling(asked, info, settings)
    return asked
