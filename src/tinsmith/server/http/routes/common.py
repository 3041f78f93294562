"""What all routes share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from tinsmith.server.handlers.intake.bodies import read_body
from tinsmith.server.http.open_requests import OpenRequests
from tinsmith.server.json_bytes import to_bytes
from tinsmith.server.service import Service
from tinsmith.server.state.notes import SampleNote
from tinsmith.server.state.records import Record
from tinsmith.server.store.paging import Paging
from tinsmith.types.errors import UserError
from tinsmith.types.names.http_names import API_KEY_HEADER, JSON


def service_of(request: Request) -> Service:
    """Return the service behind an app."""
    return request.app.state.service


def one_more_of(request: Request, owner: str) -> AbstractContextManager[None]:
    """Count a request of a key until it has been answered; see `OpenRequests.one_more`."""
    open_requests: OpenRequests = request.app.state.open_requests
    return open_requests.one_more(owner, service_of(request).core.metrics.refused)


async def get_service(request: Request) -> Service:
    """Return the service behind an app; a coroutine, because FastAPI runs plain functions on another thread."""
    return service_of(request)


async def get_owner(request: Request) -> str:
    """Return whose request this is.

    Raises:
        UserError: the key is missing or wrong (401).
    """
    service = service_of(request)
    if service.owner is not None:
        return service.owner
    token = token_of(request)
    if not token:
        raise UserError(
            "X-API-Key: got nothing, expected an API key (tml-...) here or in 'Authorization: Bearer tml-...'", 401
        )
    owner = await service.keys.owner_of(token)
    if owner is None:
        raise UserError("X-API-Key: got a key that is not known here, expected one of this service's keys", 401)
    return owner


async def count_owner(request: Request) -> AsyncIterator[str]:
    """Return whose request this is, and count it until it has been answered.

    Raises:
        UserError: the key is missing or wrong (401).
        Unavailable: as many requests of the key as may be are being answered (429).
    """
    owner = await get_owner(request)
    # The one user of a service in its own process has no connections to run out of.
    if service_of(request).owner is not None:
        yield owner
        return
    with one_more_of(request, owner):
        yield owner


def token_of(request: Request) -> str | None:
    """Return the key that came with a request."""
    # Tinker clients send the one, most other HTTP clients the other.
    if token := request.headers.get(API_KEY_HEADER):
        return token
    # The scheme in any case, then spaces (RFC 9110, 11.1 and 11.4); a key under another scheme is no key.
    scheme, _, token = request.headers.get("authorization", "").strip(" ").partition(" ")
    return token.strip(" ") or None if scheme.lower() == "bearer" else None


async def get_body(request: Request) -> bytes:
    """Return the decompressed body of a JSON request."""
    settings = service_of(request).settings
    return await read_body(request, min(settings.max_json_mb, settings.max_upload_mb) * 2**20)


async def get_batch(request: Request) -> bytes:
    """Return the decompressed body of a request that brings a batch."""
    return await read_body(request, service_of(request).settings.max_upload_mb * 2**20)


ServiceDep = Annotated[Service, Depends(get_service)]
Owner = Annotated[str, Depends(count_owner)]
# Of what keeps a session alive, and takes no time: a key that is at its limit shall not lose its runs by that.
AnyOwner = Annotated[str, Depends(get_owner)]
Body = Annotated[bytes, Depends(get_body)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, lt=2**63)]  # what a database can count to


def page_of(usual: int) -> Callable[[int, int], Awaitable[Paging]]:
    """Return the dependency that reads `limit` and `offset`; `usual` is the limit of a client that names none."""

    async def page(limit: Limit = usual, offset: Offset = 0) -> Paging:
        return Paging(limit, offset)

    return page


def reply(message: BaseModel | dict[str, Any], status: int = 200) -> Response:
    """Answer with JSON; fields of a model that are None are left out."""
    fields = message.model_dump(mode="json", exclude_none=True) if isinstance(message, BaseModel) else message
    return Response(to_bytes(fields), status, media_type=JSON)


def promise(record: Record) -> Response:
    """Answer with the future of an accepted operation."""
    fields: dict[str, Any] = {"request_id": record.request_id}
    if record.model_id is not None:
        fields["model_id"] = record.model_id
    # The official client asserts that there are as many ids as samples, before any of them is drawn.
    if isinstance(record.note, SampleNote):
        fields["sample_sequence_ids"] = [f"{record.request_id}-{index}" for index in range(record.note.num_samples)]
    return reply(fields)
