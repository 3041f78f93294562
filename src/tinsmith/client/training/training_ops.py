"""What a training client asks of the service besides gradients: steps, saves, loads, snapshots."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, TypeVar

from tinsmith.client.checkpoints.saved_path import SavedPath, settled
from tinsmith.client.sampling.opened_sampler import OpenedSampler
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.tokenizer.tokenizer_sources import find_tokenizer
from tinsmith.client.training.ordered_calls import OrderedCalls
from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.outcomes import OperationFuture, all_ended, peek
from tinsmith.types.errors import RequestErrorCategory, RequestFailedError, TinsmithError
from tinsmith.types.facts.learning_rate import default_adam_params
from tinsmith.types.facts.lineup import lookup
from tinsmith.types.names.paths import CheckpointKind, CheckpointPath, check_name
from tinsmith.types.outputs import (
    LoadWeightsResponse,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinsmith.types.params import AdamParams
from tinsmith.types.responses import GetInfoResponse, WireResponse

R = TypeVar("R", SaveWeightsResponse, SaveWeightsForSamplerResponse)


# What a service of ours says of a step whose batches did not all go well.
_INCOMPLETE = "the gradients are incomplete"


class SnapshotResponse(WireResponse):
    """Answer to an un-named save for sampling."""

    sampling_session_id: str


class TrainingOps:
    """Submits the small operations of one model.

    Args:
        ordered: the model's order, in which operations have their turns.
    """

    def __init__(self, ordered: OrderedCalls) -> None:
        self._ordered = ordered
        self._session = ordered.session
        self._created = ordered.created
        self._auto = itertools.count()
        self._names: set[str] = set()

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self, params: AdamParams | None) -> OperationFuture[OptimStepResponse]:
        """Submit an optimizer step; None takes the default parameters of the model."""
        record = self._ordered.record
        running, position = record.running(), record.position

        async def send() -> tuple[str, Exception | None]:
            # Taken in turn, so that it is this step that the failure belongs to.
            voided, self._ordered.voided = self._ordered.voided, None
            adam = params or default_step(self._created.peek())
            body = {"type": "optim_step", "adam_params": adam.model_dump()}
            return await self._ordered.post_json("optim_step", body), voided

        async def receive(sent: tuple[str, Exception | None]) -> OptimStepResponse:
            request_id, voided = sent
            try:
                return await self._session.poller.json(request_id, OptimStepResponse)
            except RequestFailedError as error:
                # The service only says that a batch before it was empty or failed; the caller wants to hear of what.
                await all_ended(running)
                batches = [one for one in record.failures(position) if one.operation.startswith("forward_backward")]
                why = batches[-1].reason if batches and _INCOMPLETE in error.message else voided
                if why is None:
                    raise
                message = f"no step was taken: the forward_backward before it failed ({why})"
                raise RequestFailedError(message, request_id, RequestErrorCategory.USER) from error

        return self._ordered.submit("optim_step", send, receive, trains=True)

    # -- saves and loads ----------------------------------------------------------------------------------------------

    def save(
        self, model_id: str, kind: CheckpointKind, name: str | None, answer: type[R], fields: dict[str, Any]
    ) -> SavedPath[R]:
        """Submit a save under a name, or under the next `auto-N` that is free."""
        # Named here and not by the service, so that the address is known before anything is sent.
        name = check_name(name) if name is not None else self._next_name()
        self._names.add(name)
        path = str(CheckpointPath(model_id, kind, name))
        endpoint = "save_weights" if kind == "weights" else "save_weights_for_sampler"
        body = {"type": endpoint, "path": name, **{k: v for k, v in fields.items() if v is not None}}

        async def receive(request_id: str) -> R:
            saved = await self._session.poller.json(request_id, answer)
            if saved.path != path:
                raise TinsmithError(f"the service saved to {saved.path}, expected {path}")
            return saved

        method = "save_state" if kind == "weights" else endpoint

        def finish(saved: R, position: int) -> R:
            return saved.model_copy(update=self._ordered.record.facts(position))

        send = partial(self._ordered.post_json, endpoint, body)
        saving = self._ordered.submit_dependent(method, send, receive, finish)
        return SavedPath[R].of(path, saving)

    def _next_name(self) -> str:
        return next(name for name in (f"auto-{n}" for n in self._auto) if name not in self._names)

    def load(self, path: str, optimizer: bool, token: str | None) -> OperationFuture[LoadWeightsResponse]:
        """Submit a load of a checkpoint into this model."""
        body: dict[str, Any] = {"type": "load_weights", "optimizer": optimizer}
        body |= {"weights_access_token": token} if token is not None else {}

        async def send() -> str:
            # A save of this very model is earlier in its order. The service keeps no order between models, so one of
            # another model has to be there first.
            own = CheckpointPath.parse(path).run_id == self._ordered.model_id
            source = str(path) if own else await settled(path)
            return await self._ordered.post_json("load_weights", body | {"path": source})

        async def receive(request_id: str) -> LoadWeightsResponse:
            return await self._session.poller.json(request_id, LoadWeightsResponse)

        return self._ordered.submit("load_state", send, receive, trains=True)

    def snapshot(self, kind: str) -> OperationFuture[OpenedSampler]:
        """Submit a snapshot of the weights for sampling, which has no address and ends with its client."""
        seq_id = next(self._session.sampling_session_seq_ids)
        endpoint = "save_weights_for_sampler"
        body = {"type": endpoint, "sampling_session_seq_id": seq_id, "kind": kind}

        async def receive(request_id: str) -> OpenedSampler:
            answer = await self._session.poller.json(request_id, SnapshotResponse)
            return OpenedSampler(answer.sampling_session_id, model_name(await peek(self._created)))

        return self._ordered.submit_dependent(
            "snapshot for sampling", lambda: self._ordered.post_json(endpoint, body), receive
        )


def model_name(info: GetInfoResponse) -> str:
    """Return the base model's name.

    Raises:
        TinsmithError: the service does not tell.
    """
    name = info.model_data.model_name or info.model_name
    if name is None:
        raise TinsmithError(f"get_info: the service does not name the base model of {info.model_id}")
    return name


async def find_model_tokenizer(created: OperationFuture[GetInfoResponse], connection: Connection) -> Tokenizer:
    """Return the tokenizer of a model's base, once the model is made."""
    info = await peek(created)
    return await find_tokenizer(info.model_data.tokenizer_id or model_name(info), connection)


def default_step(info: GetInfoResponse) -> AdamParams:
    """Return the parameters of a step without arguments: the course's learning rate for the model, all else default.

    Raises:
        TinsmithError: neither the service nor the lineup knows the model's hidden size.
    """
    name = model_name(info)
    known = lookup(name)
    hidden = info.model_data.hidden_size or (known.hidden_size if known else None)
    if hidden is None:
        raise TinsmithError(f"optim_step(): the hidden size of {name} is not known, pass AdamParams(learning_rate=...)")
    return default_adam_params(info.model_data.arch or (known.family if known else name), hidden)
