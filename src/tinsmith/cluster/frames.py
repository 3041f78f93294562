"""Length-prefixed msgpack: four bytes of length, big-endian, then one message. Nothing is ever pickled."""

from __future__ import annotations

import struct
from typing import Any, cast

import msgpack

# Bulky bodies travel as files, so that a frame near this limit is a fault and not a large request.
MAX_FRAME = 1 << 30

_HEADER = struct.Struct(">I")


class FrameError(Exception):
    """What came is no sequence of frames, or a frame is larger than the limit."""


def encode_frame(message: dict[str, Any], limit: int = MAX_FRAME) -> bytes:
    """Return a message as one frame.

    Raises:
        FrameError: the message is larger than `limit` bytes.
    """
    # A message about foreign content must not end the stream because it quotes half a character.
    payload = cast(bytes, msgpack.packb(message, unicode_errors="backslashreplace"))
    # Refused here, where it is known whose message it is; the reader could only give up the whole stream.
    if len(payload) > limit:
        raise FrameError(f"frame: got {len(payload)} bytes, expected at most {limit}")
    return _HEADER.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a stream of bytes into messages.

    Args:
        limit: bytes; a larger frame loses the stream.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take the next bytes of the stream, cut anywhere, and return the messages that are complete.

        Raises:
            FrameError: a frame announces more than the limit, or does not hold a message; the stream is lost.
        """
        self._buffer += data
        messages: list[dict[str, Any]] = []
        # One cut at the end: taking every message off the front would move the rest of the buffer each time.
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            messages.append(_decode(self._buffer[start + _HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return messages

    def _end_of_frame(self, start: int) -> int | None:
        """Return where the frame at `start` ends, None while it is not complete."""
        if len(self._buffer) < start + _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer, start)
        # Asked before the rest is waited for, or foreign bytes would make us gather up to 4 GiB.
        if length > self._limit:
            raise FrameError(f"frame: got {length} bytes, expected at most {self._limit}")
        end = start + _HEADER.size + length
        return end if end <= len(self._buffer) else None

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises:
            FrameError: it ended within a frame.
        """
        if self._buffer:
            raise FrameError(f"frame: got an end after {len(self._buffer)} bytes, expected a whole frame")


def _decode(payload: bytearray) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(payload)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(f"frame: got {len(payload)} bytes that are no msgpack ({error})") from error
    if not isinstance(message, dict):
        raise FrameError(f"frame: got a {type(message).__name__}, expected a map")
    return message
