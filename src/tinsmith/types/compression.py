"""zstd bodies, with a limit on what comes out."""

from __future__ import annotations

import io

import zstandard

from tinsmith.types.errors import UserError, invalid

# A slice can hold 128 KiB of output per 4 bytes of input, so a small one bounds what a bomb can do before it is seen.
_SLICE = 1024


# Level 3 is zstd's own default.
def zstd_compress(data: bytes, level: int = 3) -> bytes:
    """Compress into one zstd frame."""
    return zstandard.ZstdCompressor(level=level).compress(data)


def zstd_decompress(data: bytes, limit: int) -> bytes:
    """Decompress one or more zstd frames, whether or not they state their size.

    Args:
        data: zstd frames, of whatever origin.
        limit: most bytes that may come out.

    Raises:
        UserError: the data is no complete zstd stream (400) or is larger than `limit` (413).
    """
    out = io.BytesIO()
    rest = data
    try:
        while rest:
            stream = zstandard.ZstdDecompressor().decompressobj()
            for start in range(0, len(rest), _SLICE):
                out.write(stream.decompress(rest[start : start + _SLICE]))
                if out.tell() > limit:
                    raise invalid("body", f"more than {limit} bytes", f"at most {limit} bytes", status=413)
                if stream.eof:
                    rest = stream.unused_data + rest[start + _SLICE :]
                    break
            else:
                raise UserError("body: got a truncated zstd frame, expected a complete one")
    except zstandard.ZstdError as error:
        raise UserError(f"body: got bytes that are no zstd stream ({error}), expected a complete one") from error
    return out.getvalue()
