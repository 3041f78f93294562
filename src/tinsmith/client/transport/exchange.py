"""One exchange with a service: what is sent, what comes back, and what the network may do in between."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from pydantic import BaseModel, ValidationError

from tinsmith.types.checks.json_numbers import check_finite
from tinsmith.types.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    status_error,
)

if TYPE_CHECKING:
    import httpx

M = TypeVar("M", bound=BaseModel)

# A host that drops packets would otherwise use up the whole time of a try, which is meant for a slow answer.
_CONNECT_TIMEOUT_S = 10.0


class RequestParts(TypedDict, total=False):
    """What a request may have besides its method and path.

    Attributes:
        json: the body, as what `json` can write.
        content: the body, as bytes.
        params: of the query; those that are None are left out.
        headers: besides those of every request.
        timeout: of one try, in seconds; absent takes `TINSMITH_CLIENT_TIMEOUT_S`.
    """

    json: object
    content: bytes
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    timeout: float


async def request(
    http: httpx.AsyncClient, method: str, url: str, parts: RequestParts, timeout: float
) -> httpx.Response:
    """Send a request and return the response, whatever its status.

    Args:
        http: reaches the service, and adds the headers of every request.
        method: `GET`, `POST`, ...
        url: the whole URL of a route.
        parts: body, query, headers, timeout.
        timeout: in seconds, where the parts have none.

    Raises:
        UserError: the body has a number that JSON cannot say; the message names its field.
    """
    said = parts.get("json")
    if isinstance(said, Mapping):
        check_finite(cast("Mapping[str, Any]", said))
    params = parts.get("params")
    return await http.request(
        method,
        url,
        json=parts.get("json"),
        content=parts.get("content"),
        params=None if params is None else {key: value for key, value in params.items() if value is not None},
        headers=parts.get("headers"),
        timeout=timeouts(parts.get("timeout", timeout)),
    )


def timeouts(seconds: float) -> httpx.Timeout:
    """Return the timeouts of one try that may take so long between two pieces of the answer."""
    # httpx is slow to import, and the first request is early enough.
    import httpx

    # No limit on waiting for a socket: there is none on their number.
    return httpx.Timeout(seconds, connect=_CONNECT_TIMEOUT_S, pool=None)


def idempotency_key() -> str:
    """Return a new key, for one request and its repetitions."""
    return f"tinsmith-{uuid.uuid4()}"


@contextmanager
def network_faults(place: object) -> Generator[None]:
    """Turn the faults of the network into the SDK's errors.

    Args:
        place: where the service is, in words.

    Raises:
        APITimeoutError: no answer in time.
        APIConnectionError: the service could not be reached, or the connection broke.
    """
    import httpx

    try:
        yield
    except httpx.TimeoutException as error:
        raise APITimeoutError(f"{place} did not answer in time ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise APIConnectionError(f"{place} is not reachable ({type(error).__name__}: {error})") from error


def checked(response: httpx.Response) -> httpx.Response:
    """Return a response whose status is below 400.

    Raises:
        APIStatusError: its status is 400 or more.
    """
    if response.status_code < 400:
        return response
    raise refusal(response)


def refusal(response: httpx.Response) -> APIStatusError:
    """Return the error of a response whose status is 400 or more."""
    try:
        body: object = response.json()
    except ValueError:
        # A proxy in between answers with a page of its own; it belongs into the message as much as a `detail` does.
        body = response.text or None
    return status_error(response.status_code, body)


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
