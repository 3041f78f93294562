"""The operations of one model: sent in the order of the calls, each under the next sequence number, exactly once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from tinsmith.client.transport.connection import PROTOBUF, parse
from tinsmith.client.transport.futures import share
from tinsmith.client.transport.line import Line
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.compression import zstd_compress
from tinsmith.types.datum import Datum
from tinsmith.types.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    InternalServerError,
    TinsmithError,
    invalid,
)
from tinsmith.types.responses import GetInfoResponse, UntypedFuture

T = TypeVar("T")
P = TypeVar("P")

logger = logging.getLogger("tinsmith")

# The refusals after which nothing more can be done for the model: wrong key, no such model, session over.
_FINAL_STATUSES = frozenset({401, 403, 404, 410})
_PARALLEL_POSTS = 8
_LARGE_BYTES = 2**19


class OrderedCalls:
    """Sends one model's training operations.

    A call draws a ticket. In its turn it takes sequence numbers and posts; the turn is over when the service has
    acknowledged the posts, so that later calls follow without waiting for results. What was submitted is sent even
    where the caller no longer waits, since a missing number would hold up everything after it.

    Args:
        session: of the model.
        created: gives the model's facts once the service has made it.
    """

    def __init__(self, session: ClientSession, created: Future[GetInfoResponse]) -> None:
        self.session = session
        self.created = created
        self._line = Line()
        self._next_seq = itertools.count(1)
        self._posts = asyncio.Semaphore(_PARALLEL_POSTS)
        self._lost: TinsmithError | None = None

    def submit(self, send: Callable[[], Awaitable[P]], receive: Callable[[P], Awaitable[T]]) -> Future[T]:
        """Queue an operation.

        Args:
            send: posts it, in its turn, and returns what `receive` needs.
            receive: waits for the result.
        """
        self.session.connection.check_usable()
        sent = self.session.submit_lasting(self._in_turn(self._line.ticket(), send))
        return self.session.submit_lasting(self._receive(sent, receive))

    async def _in_turn(self, ticket: int, send: Callable[[], Awaitable[P]]) -> P:
        async with self._line.turn(ticket):
            await share(self.created)
            if self._lost is not None:
                raise TinsmithError(f"this model takes no more operations: {self._lost}") from self._lost
            return await send()

    async def _receive(self, sent: Future[P], receive: Callable[[P], Awaitable[T]]) -> T:
        return await receive(await share(sent))

    # -- posts, in turn -----------------------------------------------------------------------------------------------

    async def post(self, path: str, body: dict[str, Any]) -> str:
        """Post an operation's JSON body under the next number and return its request id.

        Raises:
            UserError: a number in it is not finite, which JSON cannot say; no sequence number is used up.
        """
        check_finite(body)
        fields = {"model_id": self.created.result().model_id, "seq_id": next(self._next_seq), **body}
        return await self._post(path, json=fields)

    async def post_data(
        self, parts: Sequence[Sequence[Datum]], loss_fn: str, config: dict[str, float | str], forward_only: bool
    ) -> list[str]:
        """Post the parts of a forward or forward_backward under consecutive numbers and return their request ids."""
        numbered = [(next(self._next_seq), part) for part in parts]
        client = await self.session.connection.config()
        posts = [self._post_part(seq, part, loss_fn, config, forward_only) for seq, part in numbered]
        if client.parallel_fwdbwd_chunks:
            outcomes = await asyncio.gather(*posts, return_exceptions=True)
        else:
            outcomes = [await _outcome(post) for post in posts]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, str)]

    async def post_void(self) -> None:
        """Post a forward_backward that the service must fail, so that it takes no step on the gradients it has.

        It stands in for one that never came about: whatever else was accumulated is then cleared, not applied.
        """
        if self._lost is None:
            await self._void(next(self._next_seq), forward_only=False)

    async def _void(self, seq: int, forward_only: bool) -> None:
        """Use up a number with an empty batch, which no service accepts."""
        body = encode_forward_backward_request(
            self.created.result().model_id, seq, [], "cross_entropy", None, forward_only
        )
        try:
            await self._post("forward_backward", content=body, headers={"Content-Type": PROTOBUF})
        except APIStatusError as error:
            logger.info("operation %d stays void: %s", seq, error)

    async def _post_part(
        self, seq: int, part: Sequence[Datum], loss_fn: str, config: dict[str, float | str], forward_only: bool
    ) -> str:
        try:
            async with self._posts:
                content, headers = await self._encode(seq, part, loss_fn, config, forward_only)
                return await self._post("forward_backward", content=content, headers=headers)
        except Exception:
            if self._lost is None:
                await self._void(seq, forward_only)
            raise

    async def _encode(
        self, seq: int, part: Sequence[Datum], loss_fn: str, config: dict[str, float | str], forward_only: bool
    ) -> tuple[bytes, dict[str, str]]:
        compress = (await self.session.connection.config()).proto_compress_fwdbwd
        model_id = self.created.result().model_id

        def encode() -> bytes:
            body = encode_forward_backward_request(model_id, seq, part, loss_fn, config, forward_only)
            return zstd_compress(body) if compress else body

        # A large body would stop all other traffic meanwhile; a small one is done before a thread has even begun.
        large = sum(datum.nbytes for datum in part) > _LARGE_BYTES
        content = await asyncio.to_thread(encode) if large else encode()
        return content, {"Content-Type": PROTOBUF, **({"Content-Encoding": "zstd"} if compress else {})}

    async def _post(self, path: str, **request: Any) -> str:
        try:
            response = await self.session.connection.send("POST", path, **request)
            return parse(UntypedFuture, response).request_id
        except (APIConnectionError, InternalServerError, APIResponseValidationError) as error:
            # Whether the service has it is not known, so neither it nor what follows can be sent safely.
            self._lost = error
            raise
        except APIStatusError as error:
            if error.status_code in _FINAL_STATUSES:
                self._lost = error
            raise


async def _outcome(post: Awaitable[str]) -> str | BaseException:
    return (await asyncio.gather(post, return_exceptions=True))[0]


def check_finite(body: Mapping[str, Any], within: str = "") -> None:
    """Check that a JSON body has no number that JSON cannot say.

    Args:
        body: an object of values and objects.
        within: path of the object in the whole body, ending in a dot.

    Raises:
        UserError: a number is NaN or infinite; the message names its field.
    """
    for key, value in body.items():
        if isinstance(value, Mapping):
            check_finite(cast("Mapping[str, Any]", value), f"{within}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise invalid(f"{within}{key}", value, "a finite number")
