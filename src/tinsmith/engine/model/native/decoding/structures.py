"""The structures of `pass.h`, field by field."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p

import numpy as np


class Product(Structure):
    """See `pass.h`."""

    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("targets", c_int64),
        ("ends", c_int64 * 3),
    )


class Layer(Structure):
    """See `pass.h`."""

    _fields_ = (
        *((name, Product) for name in ("qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, c_float) for name in ("epsilon", "mlp_epsilon", "head_epsilon", "scaling")),
    )


class Model(Structure):
    """See `pass.h`."""

    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "heads", "key_heads", "head_dim", "intermediate")),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("epsilon", c_float),
    )


class Pass(Structure):
    """See `pass.h`."""

    _fields_ = (
        *((name, c_int64) for name in ("threads", "tokens", "vectors", "stride", "spans", "products")),
        *(
            (name, c_void_p)
            for name in ("span", "factors", "adapted", "few", "cos", "sin", "cells", "tables", "positions")
        ),
        *((name, c_int64) for name in ("blocks", "block_size")),
        *((name, c_void_p) for name in ("keys", "values", "rows", "x", "normed", "qkv", "query", "mixed")),
        *((name, c_void_p) for name in ("mixed_columns", "gate_up", "gated")),
    )


# Of `Span`, as NumPy lays it out.
SPAN = np.dtype(
    [
        *((name, "i8") for name in ("start", "end", "rank", "hidden", "window")),
        ("own", "u8"),
        ("scale", "f4"),
    ],
    align=True,
)
# Addresses of A and of up to three B, 0 where an adapter leaves a product out.
FACTORS = 4


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the functions' parameters."""
    steps = [("decode", "project")]
    if library.offers_bfloat16():
        steps.append(("decode_bfloat16", "project_bfloat16"))
    for decode, project in ((getattr(library, name) for name in names) for names in steps):
        decode.argtypes = [POINTER(Model), POINTER(Pass)]
        project.argtypes = [POINTER(Product), POINTER(Pass), c_void_p]
        decode.restype = project.restype = None
    for name in ("lanes", "widest_head", "most_tokens", "offers_bfloat16"):
        getattr(library, name).restype = c_int64
