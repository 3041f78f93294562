"""Request bodies: read with a limit, decompressed with a limit, parsed into wire models."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import anyio.to_thread
import orjson
import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from tinsmith.server.faults import describe
from tinsmith.types.compression import zstd_decompress
from tinsmith.types.errors import UserError, invalid

# Above them a JSON body would hold up everybody for more than half a second. A prompt of a million tokens fits.
_MOST_PARTS = (
    (b",", "values", 2_000_000),
    (b'"', "quotation marks", 400_000),
    (b":", "keys", 100_000),
    (b"{", "objects", 100_000),
    (b"[", "lists", 100_000),
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# A larger body is checked on another thread, so that it does not hold up everybody else; a smaller one is checked in
# less time than it takes to hand it to a thread and to come back.
INLINE_CHECK_BYTES = 128 * 1024


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body, decompressed.

    Args:
        request: its Content-Encoding may be identity, zstd or gzip.
        limit: most bytes, before and after decompression.

    Raises:
        UserError: too large (413), malformed (400), or an encoding that is not known (415).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "zstd", "gzip", ""):
        raise invalid("Content-Encoding", encoding, "identity, zstd or gzip", status=415)
    data = await _read(request, limit)
    # Always on another thread: a few bytes may become as many as the limit allows.
    if encoding == "zstd":
        return await anyio.to_thread.run_sync(zstd_decompress, data, limit)
    if encoding == "gzip":
        return await anyio.to_thread.run_sync(_gunzip, data, limit)
    return data


async def _read(request: Request, limit: int) -> bytes:
    # A body that says that it is too large is not read at all. One that comes in chunks says nothing, so the bytes are
    # counted as well.
    announced = request.headers.get("content-length", "")
    # `isdigit` alone takes digits of all scripts, which `int` may not; nor does it read numbers of any length.
    digits = announced.isascii() and announced.isdigit()
    if digits and (len(announced) > 18 or int(announced) > limit):
        raise invalid("body", f"{announced[:40]} bytes", f"at most {limit} bytes", status=413)
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > limit:
                raise invalid("body", f"more than {limit} bytes", f"at most {limit} bytes", status=413)
    except ClientDisconnect as error:
        raise UserError("body: got a part of it, expected all of it") from error
    return bytes(chunks)


def _gunzip(data: bytes, limit: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            # One byte more than allowed tells a body that is too large from one that just fits.
            out = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"body: got bytes that are no gzip stream ({error}), expected a complete one") from error
    if len(out) > limit:
        raise invalid("body", f"more than {limit} bytes", f"at most {limit} bytes", status=413)
    return out


async def check_body(body: bytes, check: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Return what a check gives, made here or on another thread, whichever suits the size of the body."""
    if len(body) > INLINE_CHECK_BYTES:
        return await anyio.to_thread.run_sync(check, *arguments)
    return check(*arguments)


async def read_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object, on another thread where it is large.

    Raises:
        UserError: the body is something else (400), or has more parts than any request has (413).
    """
    return await check_body(body, parse_object, body)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        UserError: the body is something else (400), or has more parts than any request has (413).
    """
    # Counted first, which takes next to no time: the parser holds the interpreter until it is done, on whatever thread,
    # and a part costs it a hundred times as much as a byte of text.
    for mark, part, most in _MOST_PARTS:
        if len(body) > most and body.count(mark) > most:
            raise invalid("body", f"more than {most} {part}", f"at most {most} in one JSON body", status=413)
    try:
        # Other clients may write NaN and Infinity, which are no JSON; they are refused later, by field.
        value = pydantic_core.from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise UserError(f"body: got no JSON ({error}), expected a JSON object") from error
    if not isinstance(value, dict):
        raise invalid("body", type(value).__name__, "a JSON object")
    return value


async def parse(model: type[M], body: bytes) -> M:
    """Parse a JSON body into a wire model, on another thread where it is large.

    Raises:
        UserError: it is no JSON object or a field is wrong (422).
    """
    return await check_body(body, lambda: validate(model, parse_object(body)))


def validate(model: type[M], fields: dict[str, Any]) -> M:
    """Check parsed JSON against a wire model.

    Raises:
        UserError: a field is wrong (422).
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise UserError(describe(error), 422) from error


def canonical(fields: dict[str, Any]) -> bytes:
    """Return one form of a JSON object, whatever the order of its keys."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # whole numbers beyond 64 bits; the field's own check refuses them later
        return json.dumps(fields, sort_keys=True).encode()
