"""The header of a safetensors file, read with suspicion and written ahead of the data. No torch, no data in memory.

A file is the header's length (8 bytes, little-endian), the header (JSON: dtype, shape and place of each tensor), and
the tensors' bytes without gaps (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinsmith.types.errors import UserError, invalid

LENGTH_BYTES = 8
# Bytes of one element.
_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a file.

    Attributes:
        dtype: as the format calls it, e.g. `BF16`.
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor's data."""
        return _SIZES[self.dtype] * math.prod(self.shape)


def header_length(where: str, data: bytes, limit: int) -> int:
    """Return the length of a header in bytes, from the first 8 bytes of its file.

    Raises:
        UserError: there are fewer bytes, or the header would be longer than `limit`.
    """
    if len(data) < LENGTH_BYTES:
        raise invalid(where, f"{len(data)} bytes", "a safetensors file")
    (length,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    # "{}" is the shortest JSON object. Without the limit 8 bytes could ask for any amount of memory.
    if not 2 <= length <= limit:
        raise invalid(f"{where}: header", f"{length} bytes", f"a safetensors header of at most {limit} bytes")
    return length


def parse_header(where: str, data: bytes) -> tuple[dict[str, TensorEntry], int]:
    """Read a header.

    Args:
        where: what messages call the file.
        data: the header alone.

    Returns:
        the tensors by name, and how many bytes of data have to follow.

    Raises:
        UserError: it is no header, or its tensors overlap, leave gaps or have sizes other than their shapes say.
    """
    try:
        fields: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: got a header that is no JSON ({error}), expected a safetensors file") from error
    if not isinstance(fields, dict):
        raise invalid(f"{where}: header", type(fields).__name__, "a JSON object")
    fields.pop(_METADATA, None)
    entries = {name: _entry(f"{where}: {name}", field) for name, field in fields.items()}
    # In the order of their places, each has to begin where the one before it ends: no overlap hides a second content.
    end = 0
    for name, (start, stop) in sorted(((n, f["data_offsets"]) for n, f in fields.items()), key=lambda item: item[1]):
        if start != end or stop - start != entries[name].size:
            wanted = [end, end + entries[name].size]
            raise invalid(f"{where}: {name}: data_offsets", [start, stop], f"{wanted}, without gaps")
        end = stop
    return entries, end


def read_metadata(data: bytes) -> dict[str, str]:
    """Return the free metadata of a file that has been found sound, from its first bytes on."""
    (length,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    return json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length]).get(_METADATA, {})


def _entry(where: str, field: object) -> TensorEntry:
    if not isinstance(field, dict):
        raise invalid(where, field, "dtype, shape and data_offsets")
    dtype, shape, offsets = field.get("dtype"), field.get("shape"), field.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise invalid(f"{where}: dtype", dtype, f"one of {', '.join(sorted(_SIZES))}")
    if not _are_counts(shape):
        raise invalid(f"{where}: shape", shape, "a list of whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2:  # pyright: ignore[reportArgumentType]
        raise invalid(f"{where}: data_offsets", offsets, "where the data begin and end")
    return TensorEntry(dtype, tuple(shape))  # pyright: ignore[reportArgumentType]


def _are_counts(value: object) -> bool:
    # `type`, because bool is an int. 2**48 bytes are more than any disk holds.
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def make_header(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Return what stands before the data of a file whose tensors follow in this order."""
    fields: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, entry in entries.items():
        fields[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [end, end + entry.size]}
        end += entry.size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begin aligned
    return struct.pack("<Q", len(text)) + text
