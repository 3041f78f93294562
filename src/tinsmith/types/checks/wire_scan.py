"""How many parts a batch has, counted before it is parsed: two bytes of a message may become a hundred of memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinsmith.types.errors import invalid

# A smaller body is parsed as it is: whatever it holds, that takes a few megabytes.
_SMALL_BYTES = 256 * 1024
# Protobuf's ways of writing a field.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True)
class _Message:
    """The fields of a message that bring parts.

    Attributes:
        messages: numbers of fields that hold messages with parts of their own.
        packed: numbers of packed fields, each byte of which may be a number.
    """

    messages: dict[int, _Message] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    packed: frozenset[int] = frozenset()


# As `tinsmith.proto` numbers them: what is repeated or a map, and what may repeat inside it.
_TENSOR = _Message(packed=frozenset({4}))
_DATUM = _Message({1: _Message(), 2: _Message({2: _TENSOR}), 3: _Message(), 4: _Message()})
_REQUEST = _Message({3: _DATUM, 5: _Message(), 7: _Message()})


def check_parts(body: bytes, most: int) -> None:
    """Check that a forward_backward request has no more parts than a batch can need; malformed bytes are left alone.

    Args:
        body: the protobuf bytes.
        most: fields of all messages in it, datums, chunks, tensors and dimensions included.

    Raises:
        UserError: it has more (413).
    """
    if len(body) <= _SMALL_BYTES:
        return
    left = most
    # Messages still to be walked through: where they begin and end, and what they are.
    waiting = [(0, len(body), _REQUEST)]
    while waiting:
        place, end, message = waiting.pop()
        while place < end:
            left -= 1
            if left < 0:
                raise invalid("body", f"more than {most} fields", f"at most {most} in one request", status=413)
            tag, place = _varint(body, place, end)
            kind = tag & 7
            if kind == _VARINT:
                _, place = _varint(body, place, end)
            elif kind == _BYTES:
                length, place = _varint(body, place, end)
                if tag >> 3 in message.packed:
                    left -= length
                elif inner := message.messages.get(tag >> 3):
                    waiting.append((place, min(place + length, end), inner))
                place += length
            elif kind in _FIXED:
                place += _FIXED[kind]
            else:
                return  # no message of ours; the parser says so


def _varint(body: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:
        byte = body[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    # Cut off or too long: the walk ends here, and the parser finds out why.
    return 0, end
