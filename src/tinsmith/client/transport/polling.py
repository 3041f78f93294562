"""Waiting for the result of an accepted operation, by long polls that outlive restarts of the service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.exchange import checked, refusal
from tinsmith.types.errors import (
    APIResponseValidationError,
    RequestErrorCategory,
    RequestFailedError,
    TinsmithError,
)
from tinsmith.types.names.http_names import JSON, PROTOBUF

if TYPE_CHECKING:
    import httpx

M = TypeVar("M", bound=BaseModel)

logger = logging.getLogger("tinsmith")

# A service holds a poll for up to 40 s (`TINSMITH_LONG_POLL_S`); the rest is for the way, and for a large result.
_POLL_TIMEOUT_S = 60.0
# Polls held open at once, each with a socket of its own; more results than that are asked for in turn.
_MAX_POLLS = 256
# "Not there yet" as the protocol says it: elsewhere a 408 is a fault of the network, here it is the usual answer.
_TRY_AGAIN = 408
_TRY_AGAIN_ANSWERS = frozenset({_TRY_AGAIN})
_PROMISE_GONE = 410
# A service that answers "not yet" faster than this is not polled faster than this.
_LEAST_POLL_S = 0.05
_QUEUE_REMINDER_S = 60.0


class PromiseLostError(TinsmithError):
    """The service no longer knows an operation that it had accepted."""


class Poller:
    """Asks one service for results."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(_MAX_POLLS)
        self._told_of_queue: dict[str, float] = {}

    async def message(self, request_id: str) -> bytes:
        """Wait for a protobuf result and return its bytes.

        Raises:
            RequestFailedError: the operation failed.
            PromiseLostError: the service has forgotten the operation.
            APIError: the service could not be reached or refused the poll.
        """
        response = await self._poll(request_id, PROTOBUF)
        if not _is_protobuf(response):
            raise APIResponseValidationError(f"request {request_id}: expected a protobuf result", body=response.text)
        return response.content

    async def messages(self, request_ids: Sequence[str]) -> list[bytes]:
        """Wait for several protobuf results; errors as for `message`."""
        return await asyncio.gather(*(self.message(request_id) for request_id in request_ids))

    async def json(self, request_id: str, answer: type[M]) -> M:
        """Wait for a JSON result; errors as for `message`."""
        response = await self._poll(request_id, JSON)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise APIResponseValidationError(
                f"request {request_id}: the result is no {answer.__name__} ({error})", body=response.text
            ) from error

    async def _poll(self, request_id: str, accept: str) -> httpx.Response:
        # Never the size alone: results are fetched whole, at once.
        body = {"request_id": request_id, "allow_metadata_only": False}
        while True:
            began = time.monotonic()
            # The slot is given back after every poll, so that results that are there are not kept waiting.
            async with self._slots:
                response = await self._connection.attempt(
                    "POST",
                    "retrieve_future",
                    json=body,
                    headers={"Accept": accept},
                    timeout=_POLL_TIMEOUT_S,
                    answers=_TRY_AGAIN_ANSWERS,
                )
            if response.status_code == _PROMISE_GONE:
                raise PromiseLostError(f"request {request_id}: {refusal(response).message}")
            if response.status_code == _TRY_AGAIN:
                self._tell_of_queue(_state_of(response))
            elif self._is_result(checked(response), request_id):
                return response
            # A poll that was held open took its time already, and this adds nothing.
            await asyncio.sleep(max(0.0, _LEAST_POLL_S - (time.monotonic() - began)))

    def _is_result(self, response: httpx.Response, request_id: str) -> bool:
        """Whether a response with status 200 is the result; False asks for another poll.

        Raises:
            RequestFailedError: it says that the operation failed.
        """
        if _is_protobuf(response):
            return True
        # Failures are JSON with status 200, for results of either form, and so is "try again" of some services.
        state = _json_object(response, request_id)
        if "error" in state:
            category = RequestErrorCategory.parse(str(state.get("category")))
            raise RequestFailedError(str(state["error"]), request_id, category)
        if state.get("type") != "try_again":
            return True
        self._tell_of_queue(state)
        return False

    def _tell_of_queue(self, state: dict[str, Any]) -> None:
        """Say why nothing moves, where the service holds work back: at once when the state changes, then by the minute.

        Of all futures together: hundreds may wait for the same thing, some of which run while others wait.
        """
        queue, now = str(state.get("queue_state", "active")), time.monotonic()
        if queue != "active" and now - self._told_of_queue.get(queue, -_QUEUE_REMINDER_S) >= _QUEUE_REMINDER_S:
            self._told_of_queue[queue] = now
            reason = state.get("queue_state_reason") or queue
            logger.warning("%s holds requests back: %s", self._connection.address, reason)


def _state_of(response: httpx.Response) -> dict[str, Any]:
    """Return what an answer of 408 says; nothing where it is a proxy's."""
    try:
        state = response.json()
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _is_protobuf(response: httpx.Response) -> bool:
    return response.headers.get("content-type", "").startswith(PROTOBUF)


def _json_object(response: httpx.Response, request_id: str) -> dict[str, Any]:
    try:
        state = response.json()
    except ValueError as error:
        raise APIResponseValidationError(f"request {request_id}: not JSON", body=response.text) from error
    if not isinstance(state, dict):
        raise APIResponseValidationError(f"request {request_id}: expected an object", body=state)
    return state  # pyright: ignore[reportUnknownVariableType]
