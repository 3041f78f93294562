"""The door of training steps: forward, forward_backward and optim_step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tinsmith.server.handlers.intake.bodies import canonical, check_body, read_object, validate
from tinsmith.server.handlers.intake.limits import Limits
from tinsmith.server.handlers.intake.model_order import ModelOrder, Prepared
from tinsmith.server.handlers.provenance import fill_in, named_requests
from tinsmith.server.handlers.references import ReferencesHandler
from tinsmith.server.state.live import TrainingRun
from tinsmith.server.state.notes import PassNote
from tinsmith.server.state.records import Record
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import Effect, digest
from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_adam, check_count, check_training_data
from tinsmith.types.checks.wire_scan import check_parts
from tinsmith.types.codec import decode_data, decode_loss_config, parse_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import ForwardBackward, OpKind, OptimStep
from tinsmith.types.errors import invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.loss_table import LOSSES, OWN_FORMULA
from tinsmith.types.requests import OptimStepRequest

log = logging.getLogger("tinsmith.server")

_PARTS_OF_A_DATUM = 64


class TrainingHandler:
    """Turns training steps into operations."""

    def __init__(self, core: Core, model_order: ModelOrder, references: ReferencesHandler, limits: Limits) -> None:
        self._limits = limits
        self._model_order = model_order
        self._references = references
        self._settings = core.settings
        self._catalog = core.catalog
        self._recordings = core.recordings
        self._told = False

    async def forward_backward(self, owner: str, body: bytes) -> Record:
        """Accept a forward or forward_backward.

        Raises:
            UserError: the body is no such message (400).
            Unavailable: too many tokens of the owner's are in flight (429).
        """
        request, payload_hash = await check_body(body, _parse_pass, body, self._settings.max_datums)
        record = Record(OpKind.FORWARD_BACKWARD, owner, payload_hash=payload_hash, body=body)
        record.work, record.note = ForwardBackward(), PassNote(request.forward_only)

        async def prepare(run: TrainingRun, record: Record) -> Prepared:
            info = await self._catalog.find(run.base_model)
            loss = LOSSES.get(request.loss_fn)
            # A batch that is too large is refused below, and shall not cost a search.
            searched = loss is not None and loss.recorded and len(request.data) <= self._settings.max_datums
            effects = await self._fill_in(request, record) if searched else []
            tokens = await check_body(body, _check_pass, request, info, self._settings)
            record.note = PassNote(request.forward_only, tokens)
            self._limits.check_tokens(record)
            # Last, because it leaves files: a request that is refused has done nothing.
            if LOSSES[request.loss_fn].referenced:
                record.work = ForwardBackward(await self._references.find(run, decode_loss_config(request)))
            return Prepared(effects)

        return await self._model_order.accept(record, request.model_id, request.seq_id, prepare)

    async def _fill_in(self, request: Any, record: Record) -> list[Effect]:
        """Give a request the logprobs that were recorded; return what notes their use."""
        names = named_requests(request)
        recordings = await self._recordings.find(record.owner, names)
        record.body = await check_body(record.body or b"", fill_in, request, recordings)
        if not self._told:
            self._told = True
            log.warning(OWN_FORMULA, request.loss_fn)
        return [self._recordings.touch(names)]

    async def optim_step(self, owner: str, body: bytes) -> Record:
        """Accept an optimizer step."""
        fields = await read_object(body)
        record = Record(OpKind.OPTIM_STEP, owner, payload_hash=digest(canonical(fields)))

        async def prepare(run: TrainingRun, record: Record) -> Prepared:
            request = validate(OptimStepRequest, fields)
            if request.optimizer_params is not None:
                raise invalid("optimizer_params.type", request.optimizer_params.get("type"), "adamw, as adam_params")
            if request.adam_params is None:
                raise invalid("adam_params", None, "the parameters of an AdamW step")
            check_adam(request.adam_params)
            record.work = OptimStep(request.adam_params)
            return Prepared()

        return await self._model_order.accept_json(record, fields, prepare)


def _parse_pass(body: bytes, max_datums: int) -> tuple[Any, str]:
    # Room for a few chunks and tensors in every datum.
    check_parts(body, _PARTS_OF_A_DATUM * max_datums)
    request = parse_forward_backward_request(body)
    # Maps have no order on the wire, so a repeat may differ in its bytes.
    return request, digest(request.SerializeToString(deterministic=True))


def _check_pass(request: Any, info: BaseModelInfo, settings: Settings) -> int:
    """Check a batch; return its tokens."""
    config = decode_loss_config(request)
    # Counted before they are made: an empty datum takes two bytes here and a kilobyte there.
    check_count(len(request.data), settings.max_datums)
    data = decode_data(request)
    _check_cells(data, settings.max_sparse_cells)
    check_training_data(data, request.loss_fn, config, info, settings.max_datums)
    return sum(datum.model_input.length for datum in data)


def _check_cells(data: Sequence[Datum], most: int) -> None:
    """Check what sparse tensors declare: a few bytes may stand for gigabytes of cells, results included."""
    cells = 0
    for index, datum in enumerate(data):
        for name, tensor in datum.loss_fn_inputs.items():
            cells += tensor.cells if tensor.is_sparse else 0
            if cells > most:
                field = f"data[{index}].loss_fn_inputs[{name!r}].shape"
                expected = f"at most {most} cells in the sparse tensors of one request (TINSMITH_MAX_SPARSE_CELLS)"
                raise invalid(field, tensor.shape, expected)
