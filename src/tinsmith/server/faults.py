"""Faults in words: what cannot be done right now, and what is wrong with a body. Every room may use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from tinsmith.types.errors import shown


class Unavailable(Exception):
    """The service cannot do this right now; a client repeats the request by itself."""

    def __init__(self, message: str, status: int = 503, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s


class NotOurs(SQLAlchemyError, OSError):
    """Database or blobs are another service's by now; nothing was written.

    To a request it is storage that cannot be written. Work in the background just ends: the service stops, and whoever
    noticed has said why.
    """


class Faulty(Protocol):
    """What pydantic and FastAPI raise; named by what it has, because commands that need no server read this too."""

    def errors(self) -> Sequence[Any]:
        """Return the faults."""
        ...


def describe(error: Faulty, skip: int = 0) -> str:
    """Say the first fault that pydantic found, in our words; `skip` parts of where it is are left out."""
    first: Any = error.errors()[0]
    where = first["loc"][skip:]
    field = ".".join(map(str, where)) or "body"
    if first["type"] == "missing":
        return f"{field}: got nothing, expected a value"
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{field}: got {shown(first['input'])}, expected {expected}"
