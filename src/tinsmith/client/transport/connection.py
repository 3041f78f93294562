"""One service as this process sees it: where it is, how to reach it, and exchanges that survive its restarts."""

from __future__ import annotations

import asyncio
import os
import platform
import uuid
import weakref
from collections.abc import AsyncIterator, Coroutine, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from tinsmith.client.transport import embedding
from tinsmith.client.transport.loop import background
from tinsmith.client.transport.retry import Outage, is_transient, retrying
from tinsmith.types.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    NotFoundError,
    TinsmithError,
    invalid,
    status_error,
)
from tinsmith.types.responses import ClientConfigResponse, DynamicConfigResponse
from tinsmith.version import __version__

if TYPE_CHECKING:
    import httpx

    from tinsmith.client.tokenizer.tokenizer import Tokenizer
    from tinsmith.settings import Settings

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

PROTOBUF = "application/x-protobuf"
# The embedded service is reached without a network; httpx wants a URL all the same.
_EMBEDDED_URL = "http://embedded.tinsmith"
_CONNECT_TIMEOUT_S = 10.0
_SLICE = 2**20
# Between two pieces of an upload the service writes to its disk, and after the last one it checks the whole.
_UPLOAD_TIMEOUT_S = 300.0


class Connection:
    """Exchanges with one service, over HTTP or, where `base_url` is None, inside this process.

    Args:
        base_url: where the service is; a path prefix is kept.
        settings: key, timeouts and places.
        headers: further headers of every request.

    Raises:
        UserError: `base_url` is no URL.
        TinsmithError: no URL was given and no service can run in this process.
    """

    def __init__(self, base_url: str | None, settings: Settings, headers: Mapping[str, str] | None = None) -> None:
        if base_url is None:
            embedding.check_available()
        elif not base_url.startswith(("http://", "https://")):
            raise invalid("base_url", base_url, "http://... or https://...")
        self.base_url = base_url.rstrip("/") if base_url else None
        self.settings = settings
        self.headers = dict(headers or {})
        self.closed = False
        self._pid = os.getpid()
        self._outage = Outage(self.place, settings.client_retry_s)
        self._http: httpx.AsyncClient | None = None
        self._config: ClientConfigResponse | None = None
        self._dynamic: DynamicConfigResponse | None = None
        self._lock = asyncio.Lock()
        self.tokenizers: dict[str, Tokenizer] = {}
        global _latest
        _latest = weakref.ref(self)

    @property
    def place(self) -> str:
        """Where the service is, in words."""
        return f"the service at {self.base_url}" if self.base_url else "the embedded service"

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the SDK's loop.

        Raises:
            TinsmithError: the client was closed, or belongs to the process that this one was forked from.
        """
        try:
            self.check_usable()
        except TinsmithError:
            coroutine.close()
            raise
        return background().submit(coroutine)

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
        if self._pid != os.getpid():
            raise TinsmithError("this client was made before os.fork(); make one here, or pickle a SamplingClient")

    # -- configuration ------------------------------------------------------------------------------------------------

    async def config(self) -> ClientConfigResponse:
        """Return how the service wants to be spoken to, asked for once."""
        async with self._lock:
            if self._config is None:
                body = {"sdk_version": __version__}
                self._config = await self.call(ClientConfigResponse, "POST", "client/config", json=body)
            return self._config

    async def dynamic_config(self) -> DynamicConfigResponse:
        """Return what the service offers beyond the minimum, asked for once."""
        async with self._lock:
            if self._dynamic is None:
                body = {"sdk_version": __version__}
                try:
                    self._dynamic = await self.call(DynamicConfigResponse, "POST", "client/dynamic_config", json=body)
                except NotFoundError:
                    self._dynamic = DynamicConfigResponse()
            return self._dynamic

    def adopt_config(self, config: ClientConfigResponse) -> None:
        """Take over a config that another process received."""
        self._config = config

    # -- exchanges ----------------------------------------------------------------------------------------------------

    async def call(
        self,
        answer: type[M],
        method: str,
        path: str,
        *,
        json: object | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> M:
        """Make an exchange, trying again while the service is away, and read its JSON answer.

        Raises:
            APIStatusError: the service refused the request.
            APIConnectionError: the service stayed away.
            APIResponseValidationError: the answer is not what the protocol says.
        """
        return parse(answer, await self.send(method, path, json=json, params=params))

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: object | None = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Make an exchange, trying again while the service is away; the answer's status is below 400."""
        return checked(await self.attempt(method, path, json=json, content=content, params=params, headers=headers))

    async def attempt(
        self,
        method: str,
        path: str,
        *,
        json: object | None = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        answers: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        """Make an exchange, trying again while the service is away, and return the last response whatever its status.

        Args:
            method: of HTTP.
            path: below `/api/v1/`.
            json: the body, as what `json` can write.
            content: the body, as bytes.
            params: of the query; those that are None are left out.
            headers: further headers.
            timeout: of one try, in seconds.
            answers: statuses that are an answer here, though elsewhere they ask for another try.
        """
        # One key for all tries of a call, so that the service can tell a repetition from a second request.
        keyed = {"X-Idempotency-Key": f"tinsmith-{uuid.uuid4()}", **(headers or {})}

        def transient(response: httpx.Response) -> bool:
            return response.status_code not in answers and is_transient(response)

        policy = retrying(self.settings.client_retry_s, self._outage, transient)
        return await policy(
            self.exchange, method, path, json=json, content=content, params=params, headers=keyed, timeout=timeout
        )

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        json: object | None = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Make one exchange, once, and return the response whatever its status.

        Raises:
            APITimeoutError: no answer in time.
            APIConnectionError: the service could not be reached, or the connection broke.
        """
        client = await self._client()
        with self._reached():
            response = await client.request(
                method,
                self._url(path),
                json=json,
                content=content,
                params=_plain(params),
                headers=headers,
                timeout=self._timeout(timeout),
            )
        if not is_transient(response):
            self._outage.answered()
        return response

    async def fetch(self, path: str, target: Path) -> None:
        """Write the body of a GET into a file, beginning anew while the service is away; errors as for `send`."""

        async def once() -> httpx.Response:
            client = await self._client()
            with self._reached(), target.open("wb") as out:
                async with client.stream("GET", self._url(path), timeout=self._timeout(None)) as response:
                    if response.status_code >= 400:
                        await response.aread()
                        return response
                    async for chunk in response.aiter_bytes(_SLICE):
                        await asyncio.to_thread(out.write, chunk)
            return response

        checked(await retrying(self.settings.client_retry_s, self._outage)(once))

    async def upload(self, path: str, head: bytes, file: Path) -> httpx.Response:
        """POST `head` and a file behind it, beginning anew while the service is away; errors as for `send`."""
        headers = {
            "X-Idempotency-Key": f"tinsmith-{uuid.uuid4()}",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(head) + file.stat().st_size),
        }

        async def body() -> AsyncIterator[bytes]:
            yield head
            with file.open("rb") as opened:
                while piece := await asyncio.to_thread(opened.read, _SLICE):
                    yield piece

        async def once() -> httpx.Response:
            client = await self._client()
            with self._reached():
                return await client.post(
                    self._url(path), content=body(), headers=headers, timeout=self._timeout(_UPLOAD_TIMEOUT_S)
                )

        return checked(await retrying(self.settings.client_retry_s, self._outage)(once))

    def _url(self, path: str) -> str:
        return f"{self.base_url or _EMBEDDED_URL}/api/v1/{path}"

    def _timeout(self, seconds: float | None) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(seconds or self.settings.client_timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None)

    @contextmanager
    def _reached(self) -> Generator[None]:
        """Turn the faults of the network into the SDK's errors."""
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            raise APITimeoutError(f"{self.place} did not answer in time ({type(error).__name__})") from error
        except httpx.TransportError as error:
            raise APIConnectionError(f"{self.place} is not reachable ({type(error).__name__}: {error})") from error

    async def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # Two first calls may both get here: the transport is asked for once, the later client is dropped unused.
            http = await self._make_client()
            if self._http is None:
                self._http = http
        return self._http

    async def _make_client(self) -> httpx.AsyncClient:
        import httpx

        headers = {
            "User-Agent": f"tinsmith/{__version__} Python/{platform.python_version()}",
            "x-sdk-version": __version__,
            **({"X-API-Key": self.settings.api_key} if self.settings.api_key else {}),
            **self.headers,
        }
        if self.base_url is None:
            transport = await embedding.start_embedded(self.settings)
            return httpx.AsyncClient(transport=transport, headers=headers)
        # A proxy of the environment is for the outside world, not for this machine.
        local = httpx.URL(self.base_url).host in ("localhost", "127.0.0.1", "::1")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        return httpx.AsyncClient(headers=headers, limits=limits, follow_redirects=True, trust_env=not local)

    async def close(self) -> None:
        """Close the sockets; no request can be made afterwards."""
        self.closed = True
        if self._http is not None:
            await self._http.aclose()


_latest: weakref.ref[Connection] | None = None


def latest_connection() -> Connection | None:
    """Return the connection of this process that was made last, if it is still open."""
    connection = _latest() if _latest is not None else None
    return connection if connection is not None and connection.usable else None


def checked(response: httpx.Response) -> httpx.Response:
    """Return a response whose status is below 400.

    Raises:
        APIStatusError: its status is 400 or more.
    """
    if response.status_code < 400:
        return response
    try:
        body: object = response.json()
    except ValueError:
        body = response.text or None
    raise status_error(response.status_code, body)


def parse(answer: type[M], response: httpx.Response) -> M:
    """Read a JSON answer.

    Raises:
        APIResponseValidationError: it is not what the protocol says.
    """
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise APIResponseValidationError(
            f"{response.request.url.path}: the answer is no {answer.__name__} ({error})", body=response.text
        ) from error


def _plain(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if params is None else {k: v for k, v in params.items() if v is not None}
