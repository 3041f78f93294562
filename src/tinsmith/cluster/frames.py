"""Frames on a byte stream: a four-byte length and a msgpack map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack

# Larger than any request body that the API process lets in, smaller than what a broken peer could make us allocate.
MAX_FRAME_BYTES = 1 << 30
_HEADER = 4


class FrameError(Exception):
    """The peer sent something that is no frame; the connection is of no further use."""


def encode_frames(messages: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes of several frames.

    Raises:
        FrameError: a message is larger than `MAX_FRAME_BYTES`.
    """
    parts: list[bytes] = []
    for message in messages:
        body: bytes = msgpack.packb(message, use_bin_type=True)  # pyright: ignore[reportAssignmentType]
        if len(body) > MAX_FRAME_BYTES:
            raise FrameError(f"frame: got {len(body)} bytes, expected at most {MAX_FRAME_BYTES}")
        parts += (len(body).to_bytes(_HEADER, "big"), body)
    return b"".join(parts)


class FrameReader:
    """Cuts a byte stream into messages, however its bytes arrive.

    Args:
        limit: most bytes of one message.
    """

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take bytes and yield the messages that are complete now.

        Raises:
            FrameError: a frame is too large or no msgpack map.
        """
        self._buffer += data
        start = 0
        try:
            while (end := self._end(start)) is not None:
                body, start = bytes(self._buffer[start + _HEADER : end]), end
                yield _decode(body)
        finally:
            del self._buffer[:start]

    def _end(self, start: int) -> int | None:
        """Return where the frame at `start` ends, None while it is incomplete."""
        if len(self._buffer) < start + _HEADER:
            return None
        length = int.from_bytes(self._buffer[start : start + _HEADER], "big")
        if length > self._limit:
            raise FrameError(f"frame: got {length} bytes, expected at most {self._limit}")
        end = start + _HEADER + length
        return end if len(self._buffer) >= end else None


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body, raw=False)
    except ValueError as error:
        raise FrameError(f"frame: got {len(body)} bytes that are no msgpack ({error})") from error
    if not isinstance(message, dict):
        raise FrameError(f"frame: got a {type(message).__name__}, expected a map")
    return message
