"""The errors of the SDK and of the service.

The SDK's classes mirror the ones users of the hosted service already catch; `UserError` is what service code raises
for a fault of the request itself.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import islice
from typing import Any, cast

_SHOWN = 200


class RequestErrorCategory(StrEnum):
    """Whose fault a failed operation is: the request's (`user`), the service's (`server`), or not known."""

    UNKNOWN = "unknown"
    SERVER = "server"
    USER = "user"

    @classmethod
    def parse(cls, value: str | None) -> RequestErrorCategory:
        """Read a wire value; anything unexpected is `UNKNOWN`."""
        try:
            return cls(value or "unknown")
        except ValueError:
            return cls.UNKNOWN


class UserError(ValueError):
    """A fault of the request: the message names the field, the value and what was expected.

    Inside the service it becomes a failed future of category `user` or a 4xx answer with `status`.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        # Names that foreign files give may hold half a character (a lone surrogate), which no answer and no row can.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.message = message
        self.status = status


def invalid(field: str, value: object, expected: str, *, status: int = 400) -> UserError:
    """Make the `UserError` of a bad value: `field: got VALUE, expected EXPECTATION`."""
    return UserError(f"{field}: got {shown(value)}, expected {expected}", status)


def shown(value: object) -> str:
    """Return a value as a message shows it: its `repr`, cut after 200 characters."""
    # A batch passed by mistake should not fill the screen, or the journal. The parts that are cut off are not even
    # written: of millions of numbers that takes a while.
    if isinstance(value, str | bytes | list | tuple) and len(value) > _SHOWN:  # pyright: ignore[reportUnknownArgumentType]
        value = value[: _SHOWN + 1]  # pyright: ignore[reportUnknownVariableType]
    elif isinstance(value, dict) and len(value) > _SHOWN:  # pyright: ignore[reportUnknownArgumentType]
        value = dict(islice(value.items(), _SHOWN))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    text = repr(value)  # pyright: ignore[reportUnknownArgumentType]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def without_password(url: str) -> str:
    """Return a URL as a message may show it: without the name and password that it may hold."""
    return re.sub(r"//[^/]*@", "//***@", url)


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


class Damaged(Exception):
    """Something that was stored is gone or is not what was written: the service's fault; the message names it."""


class StartupError(Exception):
    """The service cannot start, e.g. because a model does not load; the message is for the person who started it."""


class TinsmithError(Exception):
    """Base of every error that the SDK raises on purpose."""


class RequestFailedError(TinsmithError):
    """An operation was accepted and then failed.

    Attributes:
        message: what went wrong.
        request_id: the id of the operation's future.
        category: whose fault it is.
    """

    def __init__(
        self, message: str, request_id: str = "", category: RequestErrorCategory = RequestErrorCategory.UNKNOWN
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.category = category

    # An exception is pickled by its `args`, which hold the message alone; errors come back from worker processes.
    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.request_id, self.category))


class APIError(TinsmithError):
    """An exchange with the service failed."""

    def __init__(self, message: str, *, body: object | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_api_error, (type(self), self.__dict__.copy()))


def _rebuild_api_error(cls: type[APIError], state: dict[str, Any]) -> APIError:
    # Past `__init__`, because the subclasses take different arguments.
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class APIResponseValidationError(APIError):
    """The service answered something that is not what the protocol says."""


class APIConnectionError(APIError):
    """The service could not be reached."""

    def __init__(self, message: str = "Connection error.", *, body: object | None = None) -> None:
        super().__init__(message, body=body)


class APITimeoutError(APIConnectionError):
    """The service did not answer in time."""

    def __init__(self, message: str = "Request timed out.", *, body: object | None = None) -> None:
        super().__init__(message, body=body)


class APIStatusError(APIError):
    """The service answered with an HTTP error status."""

    def __init__(self, message: str, *, status_code: int, body: object | None = None) -> None:
        super().__init__(message, body=body)
        self.status_code = status_code


class BadRequestError(APIStatusError):
    """HTTP 400."""


class AuthenticationError(APIStatusError):
    """HTTP 401."""


class BillingError(APIStatusError):
    """HTTP 402."""


class PermissionDeniedError(APIStatusError):
    """HTTP 403."""


class NotFoundError(APIStatusError):
    """HTTP 404."""


class ConflictError(APIStatusError):
    """HTTP 409."""


class UnprocessableEntityError(APIStatusError):
    """HTTP 422."""


class RateLimitError(APIStatusError):
    """HTTP 429."""


class InternalServerError(APIStatusError):
    """HTTP 5xx."""


# One class per status that somebody may want to catch, under the names that users of the hosted service know.
_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def _detail(body: object) -> str:
    fields: dict[str, object] = cast("dict[str, object]", body) if isinstance(body, dict) else {"detail": body}
    detail = fields.get("detail", fields)
    return "the service gave no reason" if detail in (None, "", {}) else str(detail)


def status_error(status_code: int, body: object) -> APIStatusError:
    """Make the error of an HTTP status; the message is the body's `detail` where it has one, and ends in the status."""
    cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    return cls(f"{_detail(body)} (HTTP {status_code})", status_code=status_code, body=body)
