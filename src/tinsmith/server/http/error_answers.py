"""How faults become answers: always JSON, always `{"detail": "field: got VALUE, expected ..."}`."""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from tinsmith.server.faults import Unavailable, describe
from tinsmith.server.json_bytes import to_bytes
from tinsmith.types.errors import Damaged, UserError
from tinsmith.types.names.http_names import JSON

log = logging.getLogger("tinsmith.server")


def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Make an error answer."""
    return Response(to_bytes({"detail": detail}), status, headers, JSON)


def install(app: FastAPI) -> None:
    """Make an app answer every fault in our form."""

    @app.exception_handler(UserError)
    async def _user(_: Request, error: UserError) -> Response:
        # A 401 has to say how to do better (RFC 9110, 11.6.1).
        headers = {"WWW-Authenticate": 'Bearer realm="tinsmith"'} if error.status == 401 else None
        return answer(error.status, error.message, headers)

    @app.exception_handler(Damaged)
    async def _damaged(request: Request, error: Damaged) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, error)
        # The service's fault, but not one that passes: clients would repeat it for minutes.
        return answer(500, str(error), {"x-should-retry": "false"})

    @app.exception_handler(Unavailable)
    async def _unavailable(_: Request, error: Unavailable) -> Response:
        return answer(error.status, error.message, {"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> Response:
        return answer(422, describe(error, skip=1))  # "query" or "path"

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        # Starlette's own words for a path that no route has; every 404 of ours names a field.
        if error.status_code == 404 and error.detail == "Not Found":
            return answer(404, f"path: got {request.url.path!r}, expected a path of this API")
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    # 503, not 500: a full disk or a database that restarts may be well in a moment, and clients repeat a 503 by
    # themselves.
    @app.exception_handler(SQLAlchemyError)
    async def _storage(request: Request, error: SQLAlchemyError) -> Response:
        log.error("%s %s: storage failed: %s", request.method, request.url.path, error)
        return answer(503, f"storage: could not be read or written ({_root(error)}); retry", {"Retry-After": "2"})

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> Response:
        log.error("%s %s: storage failed: %s", request.method, request.url.path, error)
        return answer(503, f"storage: could not be read or written ({error}); retry", {"Retry-After": "2"})

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        # The reference ties what the client saw to the traceback, which stays here: it may show what belongs to others.
        reference = uuid.uuid4().hex[:8]
        log.exception("%s %s failed (reference %s)", request.method, request.url.path, reference, exc_info=error)
        return answer(500, f"internal error (reference {reference} in the service's log)")


def _root(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or type(error).__name__)
