"""Causal attention of a packed stream in C, of float32 or bfloat16 on a CPU: see `attention.h`.

Kernels of torch take sequences padded to one length, look at all keys from the first query on, and want a head that
sequences share in each of them. Here each sequence is read where it lies, with as many keys as a query sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.padded import NO_HEAD, Head

Places = npt.NDArray[np.int64]


class _Input(Structure):
    """`input` of `attention.h`."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value")),
        *((name, c_int64) for name in ("heads", "key_heads", "d")),
        ("scaling", c_float),
    )


class _Gradient(Structure):
    """`gradient` of `attention.h`."""

    _fields_ = tuple((name, c_void_p) for name in ("g", "sums", "query", "key", "value"))


@cache
def _functions(dtype: torch.dtype) -> tuple[Any, Any]:
    """The attention of a dtype, and its gradient."""
    found = library()
    assert found is not None
    # Asks the system for the processor's tiles, too.
    assert dtype == torch.float32 or found.has_bfloat16_layers()
    forward, backward = (
        (found.packed_attention, found.packed_attention_gradient)
        if dtype == torch.float32
        else (found.packed_attention_bfloat16, found.packed_attention_gradient_bfloat16)
    )
    forward.argtypes = [c_void_p, c_void_p, POINTER(_Input), c_void_p, c_int64, c_int64]
    backward.argtypes = [POINTER(_Gradient), POINTER(_Input), c_void_p, c_void_p, c_int64, c_int64]
    forward.restype = backward.restype = c_int64
    return forward, backward


# The layers of a pass ask one after the other, of a few passes side by side.
@lru_cache(maxsize=32)
def _families(lengths: tuple[int, ...], heads: tuple[Head, ...]) -> tuple[Places, Places]:
    """Return where sequences lie, [S, 4] as `attention.h` has them, those with one lender side by side; and where each
    such family begins, and the last one ends, [F + 1].
    """
    starts = np.cumsum([0, *lengths]).tolist()
    families: dict[int, list[list[int]]] = {}
    for i, (length, head) in enumerate(zip(lengths, heads or (NO_HEAD,) * len(lengths), strict=True)):
        if head.tokens:
            families.setdefault(head.lender, []).append([starts[i], length, starts[head.lender], head.tokens])
        elif length:
            # The lender itself comes first, wherever it stands.
            families.setdefault(i, []).insert(0, [starts[i], length, 0, 0])
    places = [place for family in families.values() for place in family]
    ends = np.cumsum([0, *map(len, families.values())])
    return np.array(places, np.int64).reshape(-1, 4), ends.astype(np.int64)


class _PackedAttention(torch.autograd.Function):
    """See `packed_attention`; keeps its inputs and a number for each query."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, places: tuple[Places, Places]
    ) -> Tensor:
        query, key, value = (x.contiguous() for x in (query, key, value))
        out, sums = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
        taken, sequences = _input(query, key, value, scaling), places[0]
        said = _functions(query.dtype)[0](
            *(out.data_ptr(), sums.data_ptr(), taken, sequences.ctypes.data, len(sequences), torch.get_num_threads())
        )
        _check_memory(said, query)
        ctx.save_for_backward(query, key, value, sums)
        ctx.scaling, ctx.places = scaling, places
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, sums = ctx.saved_tensors
        g, (sequences, families) = grads[0].contiguous(), ctx.places
        found = [torch.empty_like(x) for x in (query, key, value)]
        wanted = _Gradient(*(x.data_ptr() for x in (g, sums, *found)))
        taken = _input(query, key, value, ctx.scaling)
        said = _functions(query.dtype)[1](
            *(wanted, taken, sequences.ctypes.data, families.ctypes.data, len(families) - 1, torch.get_num_threads())
        )
        _check_memory(said, query)
        return found[0], found[1], found[2], None, None


def _input(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> _Input:
    heads, key_heads, d = query.shape[1], key.shape[1], query.shape[2]
    return _Input(query.data_ptr(), key.data_ptr(), value.data_ptr(), heads, key_heads, d, scaling)


def _check_memory(said: int, query: Tensor) -> None:
    if not said:
        raise MemoryError(f"no memory for the attention of {query.shape[0]} tokens")


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], heads: Sequence[Head], scaling: float
) -> Tensor:
    """Causal attention of every sequence of a packed stream to itself, as `attention.packed_attention`.

    Args:
        query: float32 or bfloat16 [T, query heads, head dim].
        key: [T, key heads, head dim]; the query heads are a multiple of the key heads.
        value: [T, key heads, head dim].
        lengths: tokens of each sequence in the stream.
        heads: what each has before them, see `ForwardContext.heads`; empty where none has a head.
        scaling: factor on query·key.

    Returns:
        [T, query heads, head dim].

    Raises:
        MemoryError: there is none for a row of scores of the longest sequence.
    """
    return _PackedAttention.apply(  # pyright: ignore[reportReturnType]
        query, key, value, scaling, _families(tuple(lengths), tuple(heads))
    )
