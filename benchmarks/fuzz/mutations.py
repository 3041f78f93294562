"""How something valid is spoilt: JSON field by field, bytes bit by bit, paths and headers piece by piece."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

# What a field may hold instead of what it should; a surrogate that is alone, numbers beyond all types, paths.
_ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**250,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "x\udfff",
    "\U0001f600",
    "x" * 300,
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "%2e%2e%2f",
    "tinker://",
    "tinker://a/weights/b",
    "NaN",
    "1e400",
    "2024-01-01",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": ""},
    {"\0": 1},
    {"\ud800": 1},
    {"type": "nothing"},
    [1, 2, 3],
    ["a", "b"],
    [1e999],
    [10**30],
]
_SEGMENTS = [
    "",
    ".",
    "..",
    "%00",
    "%2e%2e",
    "%2F",
    "..%2f..%2fetc%2fpasswd",
    "%ff%fe",
    "%ed%a0%80",
    "%zz",
    "%",
    "x" * 300,
    "x" * 9000,
    "0",
    "-1",
    "9" * 400,
    "a:b",
    "a%20b",
    "%F0%9F%98%80",
    "weights",
    "sampler_weights",
    "manifest.json",
    "null",
]


def json_body(rng: random.Random, valid: dict[str, Any]) -> bytes:
    """Return a JSON body made of a valid one, most often with one thing wrong."""
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(
            [b"", b"null", b"[]", b"0", b'"x"', b"{", b'{"a":', b"\xff\xfe", b"{} {}", b"\0", b"[" * 5000]
        )
    fields = copy.deepcopy(valid)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        _spoil(rng, fields)
    if kind < 0.12:
        deep: Any = 1
        for _ in range(rng.choice((5, 50, 150, 400))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        fields[rng.choice(list(fields) or ["a"])] = deep
    text = json.dumps(fields)
    if kind < 0.17 and fields:
        name = rng.choice(list(fields))
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(odd(rng))}}}"
    data = text.encode()
    return spoil_bytes(rng, data) if kind > 0.92 else data


def odd(rng: random.Random) -> Any:
    """Return a value that few fields can take."""
    return copy.deepcopy(rng.choice(_ODD))


def _spoil(rng: random.Random, fields: dict[str, Any]) -> None:
    """Change one thing, at whatever depth."""
    places = list(_places(fields))
    if not places or rng.random() < 0.08:
        fields[rng.choice(["extra", "", "__class__", "type", "seq_id"])] = odd(rng)
        return
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = odd(rng)


def _places(value: Any) -> Any:
    """Yield every holder and key of nested JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, insert, double or overwrite some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(out):
            out[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[place : place + rng.randrange(1, 20)]
        elif kind == 2:
            out[place:place] = rng.randbytes(rng.randrange(1, 20))
        elif kind == 3:
            out[place:place] = out[place : place + rng.randrange(1, 40)]
        else:
            out[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
    return bytes(out)


def segment(rng: random.Random, known: str) -> str:
    """Return one part of a path, percent-encoded: what is there, something near it, or nonsense."""
    kind = rng.random()
    if kind < 0.6:
        return known
    if kind < 0.7:
        return known[:-1] + rng.choice("0:/%")
    return rng.choice(_SEGMENTS)


def query(rng: random.Random, model: str) -> bytes:
    """Return a query string."""
    if rng.random() < 0.5:
        return f"model={model}".encode() if rng.random() < 0.7 else b""
    names = ("limit", "offset", "access_scope", "project_id", "model", "x", "")
    values = [*_SEGMENTS, "owned", "accessible", "1", "1000", "1e9", "9223372036854775807", "&", "=", "%3d", "\\ud800"]
    return "&".join(f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.randrange(1, 5))).encode()


def headers(rng: random.Random, key: str, usual: str) -> list[tuple[bytes, bytes]]:
    """Return headers: a key that counts most of the time, and the body's kind."""
    found = [(b"host", b"test"), (b"x-api-key", key.encode())]
    if rng.random() < 0.06:
        odd_key = rng.choice([b"", b"tml-", b"\xff\xfe", b"x" * 5000, key.encode() + b" ", b"tml-\xc3\xa9"])
        scheme = rng.choice([b"", b"Bearer ", b"bearer  ", b"Basic ", b"Bearer", b"Digest a=b,", b" "])
        found[1] = rng.choice(
            [(b"x-api-key", odd_key), (b"authorization", scheme + odd_key), (b"authorization", scheme)]
        )
    kinds = [b"application/json", b"application/x-protobuf", b"text/plain", b"", b";;", b"\xff", b"multipart/form-data"]
    found.append((b"content-type", usual.encode() if rng.random() < 0.9 else rng.choice(kinds)))
    if rng.random() < 0.06:
        found.append(
            (b"content-encoding", rng.choice([b"gzip", b"zstd", b"br", b"identity", b"", b"\xff", b"gzip, zstd"]))
        )
    if rng.random() < 0.05:
        found.append(
            (b"content-length", rng.choice([b"-1", b"x", b"", b"9" * 30, "\u00b2".encode("latin-1"), b"0", b"1e3"]))
        )
    if rng.random() < 0.1:
        found.append((b"accept", rng.choice([b"application/json", b"application/x-protobuf", b"*/*", b"", b"\xff"])))
    if rng.random() < 0.1:
        names = [b"x-idempotency-key", b"range", b"if-none-match", b"if-range", b"expect", b"x-request-id", b"cookie"]
        values = [
            b"",
            b"\xff",
            b"x" * 4000,
            b"bytes=0-",
            b"bytes=5-1",
            b"bytes=-9999",
            b"bytes=a-b",
            b"bytes=0-1,3-4",
            b'W/"x"',
        ]
        found.append((rng.choice(names), rng.choice(values)))
    return found
