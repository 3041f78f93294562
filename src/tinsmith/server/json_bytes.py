"""Anything as JSON, also what other people's files hold and JSON cannot: every answer leaves through here."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson


def to_bytes(value: Any) -> bytes:
    """Return a value as JSON.

    Whole numbers keep all their digits, which `transformers`' "no limit" of a tokenizer (10^30) needs; NaN and infinity
    become null; half a character (a lone surrogate), which no UTF-8 can hold, becomes U+FFFD.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # beyond 64 bits, or a surrogate
        return json.dumps(_sayable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_sayable(str(key)): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value
