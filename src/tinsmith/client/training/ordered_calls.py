"""The operations of one model: sent in the order of the calls, each under the next sequence number, exactly once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar, Unpack

from tinsmith.client.training.training_record import TrainingRecord
from tinsmith.client.transport.exchange import RequestParts, parse
from tinsmith.client.transport.futures import share
from tinsmith.client.transport.outcomes import OperationFuture, all_ended, peek
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.checks.json_numbers import check_finite
from tinsmith.types.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    InternalServerError,
    TinsmithError,
)
from tinsmith.types.responses import GetInfoResponse, UntypedFuture

T = TypeVar("T")
P = TypeVar("P")

# The refusals after which nothing more can be done for the model: wrong key, no such model, session over.
_FINAL_STATUSES = frozenset({401, 403, 404, 410})


class Line:
    """Tickets are drawn from any thread at call time; turns are taken on the event loop, one at a time."""

    def __init__(self) -> None:
        # `next` of a count is one step of the interpreter, so two threads never draw the same ticket.
        self._tickets = itertools.count()
        self._serving = 0
        self._waiting: dict[int, asyncio.Event] = {}

    def ticket(self) -> int:
        """Draw the next ticket; whoever draws one must take its turn."""
        return next(self._tickets)

    @asynccontextmanager
    async def turn(self, ticket: int) -> AsyncGenerator[None]:
        """Wait until all earlier tickets have had their turn, and hold the line meanwhile."""
        # Not an `asyncio.Lock`: that is taken when a task comes to run, which for the tasks of two threads may be in
        # another order than that of their calls.
        if ticket != self._serving:
            event = self._waiting[ticket] = asyncio.Event()
            await event.wait()
        try:
            yield
        finally:
            self._serving += 1
            after = self._waiting.pop(self._serving, None)
            if after is not None:
                after.set()


class OrderedCalls:
    """Sends one model's training operations.

    A call draws a ticket. In its turn it takes sequence numbers and posts; the turn is over when the service has
    acknowledged the posts, so that later calls follow without waiting for results. What was submitted is sent even
    where the caller no longer waits, since a missing number would hold up everything after it.

    Args:
        session: that the model belongs to; its end waits for what is submitted here.
        created: gives the model's facts once the service has made it.

    Attributes:
        voided: why a forward_backward never came about, for the step that then finds its gradients cleared.
        record: what became of the operations that train.
    """

    def __init__(self, session: ClientSession, created: OperationFuture[GetInfoResponse]) -> None:
        self.session = session
        self.created = created
        self.voided: Exception | None = None
        self.record = TrainingRecord()
        self._line = Line()
        # From 1, because in the protobuf request 0 is the same as unset.
        self._seq_ids = itertools.count(1)
        self._lost: TinsmithError | None = None

    @property
    def model_id(self) -> str:
        """Id of the model; known in every turn, which the creation comes before."""
        return self.created.peek().model_id

    @property
    def lost(self) -> bool:
        """Whether the model takes no more operations."""
        return self._lost is not None

    def submit(
        self,
        operation: str,
        send: Callable[[], Awaitable[P]],
        receive: Callable[[P], Awaitable[T]],
        *,
        trains: bool = False,
    ) -> OperationFuture[T]:
        """Queue an operation.

        Args:
            operation: the method that asks for it.
            send: posts it, in its turn, and returns what `receive` needs.
            receive: waits for the result.
            trains: it changes the weights or their gradients, so what follows depends on it.
        """
        # Before the ticket is drawn: a call that fails here would leave a turn that nobody takes.
        self.session.connection.check_usable()
        # Two tasks, because a caller may cancel the second, the waiting, and must not cancel the first.
        sent = self.session.submit_lasting(self._in_turn(self._line.ticket(), send))
        received = self.session.submit_lasting(self._receive(sent, receive))
        ended = self.record.follow(received) if trains else None
        return self.session.connection.outcomes.watch(received, operation, self.created.outcome, ended)

    def submit_dependent(
        self,
        operation: str,
        send: Callable[[], Awaitable[P]],
        receive: Callable[[P], Awaitable[T]],
        finish: Callable[[T, int], T] | None = None,
    ) -> OperationFuture[T]:
        """Queue an operation that is worth what the training before it is worth, and warn where that has failed.

        Args:
            operation: the method that asks for it.
            send: as for `submit`.
            receive: as for `submit`.
            finish: makes the caller's result of the received one and of the operation's position in the record, once
                it is known what failed before. What has one warns every time, anything else once.
        """
        # Taken at the call: what is submitted later and fails is no fault of this one.
        running, position = self.record.running(), self.record.position

        async def receive_and_tell(sent: P) -> T:
            result = await receive(sent)
            # They came first at the service, too, so nearly always their results are here by now.
            await all_ended(running)
            self.record.tell(operation, position, again=finish is not None)
            return finish(result, position) if finish is not None else result

        return self.submit(operation, send, receive_and_tell)

    async def _in_turn(self, ticket: int, send: Callable[[], Awaitable[P]]) -> P:
        async with self._line.turn(ticket):
            await peek(self.created)
            if self._lost is not None:
                raise TinsmithError(f"this model takes no more operations: {self._lost}") from self._lost
            return await send()

    async def _receive(self, sent: Future[P], receive: Callable[[P], Awaitable[T]]) -> T:
        return await receive(await share(sent))

    # -- in turn ------------------------------------------------------------------------------------------------------

    def next_seq_id(self) -> int:
        """Take the next sequence number; whoever takes one must post under it."""
        return next(self._seq_ids)

    async def post_json(self, path: str, body: dict[str, Any]) -> str:
        """Post an operation's JSON body under the next number and return its request id.

        Raises:
            UserError: a number in it is not finite, which JSON cannot say; no sequence number is used up.
        """
        check_finite(body)
        return await self.post(path, json={"model_id": self.model_id, "seq_id": self.next_seq_id(), **body})

    async def post(self, path: str, **parts: Unpack[RequestParts]) -> str:
        """Post an operation whose body has its number, and return its request id."""
        try:
            response = await self.session.connection.send("POST", path, **parts)
            return parse(UntypedFuture, response).request_id
        except (APIConnectionError, InternalServerError, APIResponseValidationError) as error:
            # Whether the service has it is not known, so neither it nor what follows can be sent safely.
            self._lost = error
            raise
        except APIStatusError as error:
            if error.status_code in _FINAL_STATUSES:
                self._lost = error
            raise
