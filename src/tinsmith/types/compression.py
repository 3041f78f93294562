"""zstd bodies, with a limit on what comes out."""

from __future__ import annotations

import io

import zstandard

from tinsmith.types.errors import UserError, invalid

# A slice can hold 128 KiB of output per 4 bytes of input, so a small one bounds what a bomb can do before it is seen.
_SLICE = 1024
# A client writes one. Each costs the making of a decompressor, though it may be empty and nine bytes long.
_MOST_FRAMES = 1024


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
        UserError: the data is no complete zstd stream, or one of very many frames (400), or is larger than `limit`
            (413).
    """
    out = io.BytesIO()
    # A view and a place in it: cutting the rest off anew after every frame would take the square of their number.
    view, place, frames = memoryview(data), 0, 0
    decompressor = zstandard.ZstdDecompressor()
    try:
        while place < len(data):
            frames += 1
            if frames > _MOST_FRAMES:
                raise invalid("body", f"more than {_MOST_FRAMES} zstd frames", f"at most {_MOST_FRAMES}")
            stream = decompressor.decompressobj()
            while not stream.eof:
                if place == len(data):
                    raise UserError("body: got a truncated zstd frame, expected a complete one")
                part = view[place : place + _SLICE]
                out.write(stream.decompress(part))
                place += len(part) - len(stream.unused_data)
                if out.tell() > limit:
                    raise invalid("body", f"more than {limit} bytes", f"at most {limit} bytes", status=413)
    except zstandard.ZstdError as error:
        raise UserError(f"body: got bytes that are no zstd stream ({error}), expected a complete one") from error
    return out.getvalue()
