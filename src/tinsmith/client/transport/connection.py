"""One service as this process sees it: its configuration, and exchanges that survive its restarts."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from pydantic import BaseModel

from tinsmith.client.transport.address import Address
from tinsmith.client.transport.exchange import RequestParts, checked, idempotency_key, network_faults, parse, request
from tinsmith.client.transport.loop import background
from tinsmith.client.transport.outcomes import OperationFuture, Outcome, Outcomes
from tinsmith.client.transport.retry import Outage, is_transient, retrying
from tinsmith.types.errors import NotFoundError, TinsmithError
from tinsmith.types.names.http_names import IDEMPOTENCY_KEY_HEADER
from tinsmith.types.requests import ClientConfigRequest
from tinsmith.types.responses import ClientConfigResponse, DynamicConfigResponse
from tinsmith.version import __version__

if TYPE_CHECKING:
    import httpx

    from tinsmith.settings import Settings

    Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class AskedOnce(Generic[T]):
    """A value that costs an exchange or more; belongs to one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.value: T | None = None

    async def get(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the value, from `ask` where there is none yet; if `ask` fails, the next call tries again.

        `ask` is not kept: the bound method that it usually is would hold its owner in a circle, and an owner that
        nobody uses any more would stay until garbage is collected.
        """
        if self.value is None:
            # Ten calls may be submitted before the first answer is there: all of them wait here for that one.
            async with self._lock:
                if self.value is None:
                    self.value = await ask()
        return self.value


class Connection:
    """Exchanges with one service, over HTTP or, where `base_url` is None, inside this process.

    Paths are below `/api/v1/`. From the least to the most that is done for the caller: `exchange` asks once, `attempt`
    tries again while the service is away, `send` refuses an error status, `call` reads the JSON answer.

    Args:
        base_url: where the service is; a path prefix is kept.
        settings: key, timeouts and places.
        headers: further headers of every request.

    Raises:
        UserError: `base_url` is no URL.
        TinsmithError: no URL was given and no service can run in this process.
    """

    def __init__(self, base_url: str | None, settings: Settings, headers: Mapping[str, str] | None = None) -> None:
        self.address = Address.of(base_url)
        self.api = self.address.api
        self.settings = settings
        self.headers = dict(headers or {})
        self.closed = False
        self.outcomes = Outcomes()
        self._pid = os.getpid()
        # One for all requests: when the service is away, every one of them fails, and one line in the log is enough.
        self._outage = Outage(str(self.address), settings.client_retry_s)
        self._http: AskedOnce[httpx.AsyncClient] = AskedOnce()
        self._config: AskedOnce[ClientConfigResponse] = AskedOnce()
        self._dynamic: AskedOnce[DynamicConfigResponse] = AskedOnce()
        global _latest
        # Weak: `get_tokenizer` may ask it, but that is no reason to keep a connection that nobody uses.
        _latest = weakref.ref(self)

    # -- life ---------------------------------------------------------------------------------------------------------

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the SDK's loop.

        Raises:
            TinsmithError: the client was closed, or belongs to the process that this one was forked from.
        """
        try:
            self.check_usable()
        except TinsmithError:
            # Python warns of a coroutine that was never awaited; this one never will be, on purpose.
            coroutine.close()
            raise
        return background().submit(coroutine)

    def submit_operation(
        self, coroutine: Coroutine[Any, Any, T], operation: str, cause: Outcome | None = None
    ) -> OperationFuture[T]:
        """Start a coroutine whose future goes to the user: an error that nobody looks at is told at the end.

        Args:
            coroutine: what to do.
            operation: the method that asks for it.
            cause: what it fails of where that has failed.

        Raises:
            TinsmithError: as from `submit`.
        """
        return self.outcomes.watch(self.submit(coroutine), operation, cause)

    @property
    def usable(self) -> bool:
        """Whether requests can be made: not closed, and made in this process."""
        return not self.closed and self._pid == os.getpid()

    def check_usable(self) -> None:
        """Check that requests can be made.

        Raises:
            TinsmithError: the client was closed, or belongs to the process that this one was forked from.
        """
        if self.closed:
            raise TinsmithError("this client was closed; make a new ServiceClient")
        # A fork copies sockets but not the loop's thread: the child would wait for ever, or speak into the parent's.
        if self._pid != os.getpid():
            raise TinsmithError("this client was made before os.fork(); make one here, or pickle a SamplingClient")

    async def close(self) -> None:
        """Close the sockets; no request can be made afterwards."""
        self.closed = True
        if self._http.value is not None:
            await self._http.value.aclose()

    # -- configuration ------------------------------------------------------------------------------------------------

    async def config(self) -> ClientConfigResponse:
        """Return how the service wants to be spoken to, asked for once."""
        return await self._config.get(self._ask_config)

    async def _ask_config(self) -> ClientConfigResponse:
        body = ClientConfigRequest(sdk_version=__version__).wire()
        return await self.call(ClientConfigResponse, "POST", "client/config", json=body)

    async def dynamic_config(self) -> DynamicConfigResponse:
        """Return what the service offers beyond the minimum, asked for once."""
        return await self._dynamic.get(self._ask_dynamic_config)

    async def _ask_dynamic_config(self) -> DynamicConfigResponse:
        body = ClientConfigRequest(sdk_version=__version__).wire()
        try:
            return await self.call(DynamicConfigResponse, "POST", "client/dynamic_config", json=body)
        except NotFoundError:
            # The protocol lets a service do without this route; the defaults promise nothing.
            return DynamicConfigResponse()

    def adopt_config(self, config: ClientConfigResponse) -> None:
        """Take over a config that another process received."""
        self._config.value = config

    # -- exchanges ----------------------------------------------------------------------------------------------------

    async def call(self, answer: type[M], method: str, path: str, **parts: Unpack[RequestParts]) -> M:
        """Make an exchange, trying again while the service is away, and read its JSON answer.

        Raises:
            APIStatusError: the service refused the request.
            APIConnectionError: the service stayed away.
            APIResponseValidationError: the answer is not what the protocol says.
        """
        return parse(answer, await self.send(method, path, **parts))

    async def send(self, method: str, path: str, **parts: Unpack[RequestParts]) -> httpx.Response:
        """Make an exchange, trying again while the service is away; the answer's status is below 400."""
        return checked(await self.attempt(method, path, **parts))

    async def attempt(
        self, method: str, path: str, *, answers: frozenset[int] = frozenset(), **parts: Unpack[RequestParts]
    ) -> httpx.Response:
        """Make an exchange, trying again while the service is away, and return the last response whatever its status.

        Args:
            method: `GET`, `POST`, ...
            path: below `/api/v1/`.
            answers: statuses that are an answer here, though elsewhere they ask for another try.
            parts: body, query, headers, timeout.
        """
        # One key for all tries of a call, so that the service can tell a repetition from a second request.
        headers = {IDEMPOTENCY_KEY_HEADER: idempotency_key(), **parts.get("headers", {})}
        keyed: RequestParts = {**parts, "headers": headers}
        return await self.persist(self._asking(method, path, keyed), answers)

    async def exchange(self, method: str, path: str, **parts: Unpack[RequestParts]) -> httpx.Response:
        """Make one exchange, once, and return the response whatever its status.

        Raises:
            APITimeoutError: no answer in time.
            APIConnectionError: the service could not be reached, or the connection broke.
        """
        return await self._once(self._asking(method, path, parts))

    def _asking(self, method: str, path: str, parts: RequestParts) -> Ask:
        seconds = self.settings.client_timeout_s
        return lambda http: request(http, method, self.api + path, parts, seconds)

    async def persist(self, ask: Ask, answers: frozenset[int] = frozenset()) -> httpx.Response:
        """Try `ask` again while the service is away; arguments and errors as for `attempt`."""

        def transient(response: httpx.Response) -> bool:
            return response.status_code not in answers and is_transient(response)

        return await retrying(self.settings.client_retry_s, self._outage, transient)(self._once, ask)

    async def _once(self, ask: Ask) -> httpx.Response:
        http = await self._http.get(self._open)
        with network_faults(self.address):
            response = await ask(http)
        if not is_transient(response):
            self._outage.answered()
        return response

    async def _open(self) -> httpx.AsyncClient:
        return await self.address.http_client(self.settings, self.headers)


_latest: weakref.ref[Connection] | None = None


def latest_connection() -> Connection | None:
    """Return the connection of this process that was made last, if it is still open."""
    connection = _latest() if _latest is not None else None
    return connection if connection is not None and connection.usable else None
