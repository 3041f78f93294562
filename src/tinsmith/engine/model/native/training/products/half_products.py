"""Products of bfloat16 with the processor's tiles, adapters' parts and gradients included: see `half_products.c`.

torch multiplies bfloat16 with the same tiles, but knows nothing of adapters: for each of them four products of few
columns follow, each with a pass over the activations of its own. The roundings here are the same ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.tiles.products import Addition, Outer, Whole

# Terms of a sum beyond which so few columns fit beside the rows that torch's kernel is faster: those of a gradient that
# comes from a vocabulary.
_DEEPEST = 4096


class _Factor(Structure):
    """`factor` of `half_tiles.h`."""

    _fields_ = (("at", c_void_p), ("stride", c_int64), ("along", c_int64))


class _Result(Structure):
    """`result` of `half_products.c`."""

    _fields_ = (("at", c_void_p), ("wide_at", c_void_p), ("stride", c_int64))


class _Delta(Structure):
    """`delta` of `half_products.c`."""

    _fields_ = (
        *((name, c_int64) for name in ("start", "end", "rank")),
        *(("down", _Factor), ("up", _Factor), ("hidden", c_void_p), ("scale", c_float)),
    )


class _Outer(Structure):
    """`outer` of `half_gradients.c`."""

    _fields_ = (
        *(("out", c_void_p), ("row", c_int64), ("column", c_int64), ("left", c_void_p), ("right", c_void_p)),
        *((name, c_int64) for name in ("left_stride", "right_stride", "terms", "rows", "columns")),
    )


class HalfProducts(Whole):
    """`Products` of all rows in one call, of bfloat16 on a CPU with tiles.

    Args:
        library: with the functions of `half_products.c` and `half_gradients.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._multiply, self._add_outer = library.multiply_half, library.add_outer_half
        self._multiply.argtypes = [
            *(POINTER(_Result), POINTER(_Factor), POINTER(_Factor), c_void_p),
            *(c_int64, c_int64, c_int64, POINTER(_Delta), c_int64, c_int64),
        ]
        self._add_outer.argtypes = [POINTER(_Outer), c_int64, c_int64]
        self._multiply.restype = self._add_outer.restype = c_int64

    def mm_with(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        additions: Sequence[Addition],
        out: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """`mm` with a bias and with what adapters add to its rows, and scale·x·down of each.

        Into `out` [n, out], if it is given: where that is float32, in one sum that is not rounded.
        """
        if x.dtype != torch.bfloat16 or x.shape[1] > _DEEPEST:
            return None
        out = x.new_empty(x.shape[0], weight.shape[1]) if out is None else out
        assert out.stride(1) == 1
        hidden = [x.new_empty(a.end - a.start, a.down.shape[1]) for a in additions]
        # The second ones are held until the call is over: a layout can be a copy.
        (left, _x), (right, _weight) = _factor(x, right=False), _factor(weight, right=True)
        factors = [(_factor(a.down, right=True), _factor(a.up, right=True)) for a in additions]
        bias = None if bias is None else bias.contiguous()
        deltas = (_Delta * len(additions))(
            *(
                _Delta(a.start, a.end, a.down.shape[1], down, up, h.data_ptr(), a.scale)
                for a, h, ((down, _), (up, _)) in zip(additions, hidden, factors, strict=True)
            )
        )
        places = (out.data_ptr(), None) if out.dtype == x.dtype else (None, out.data_ptr())
        said = self._multiply(
            *(_Result(*places, out.stride(0)), left, right, None if bias is None else bias.data_ptr()),
            *(x.shape[0], weight.shape[1], x.shape[1], deltas, len(additions), torch.get_num_threads()),
        )
        if not said:
            raise MemoryError(f"no memory to multiply {list(x.shape)} by {list(weight.shape)}")
        return out, hidden

    def add_outer(self, sums: Sequence[Outer]) -> None:
        """Add leftᵀ·right of each to its `out`."""
        # Held until the call is over: a layout can be a copy.
        factors = [(_by_rows(o.left), _by_rows(o.right)) for o in sums]
        outers = (_Outer * len(sums))(
            *(_outer(o.out, left, right) for o, (left, right) in zip(sums, factors, strict=True))
        )
        if not self._add_outer(outers, len(sums), torch.get_num_threads()):
            raise MemoryError(f"no memory for the gradients of {len(sums)} factors of adapters")


def _factor(x: Tensor, *, right: bool) -> tuple[_Factor, Tensor]:
    """A matrix as C takes it, and what is to be held meanwhile."""
    row, column = x.stride()
    if column != 1 and row != 1:
        x = x.contiguous()
        row, column = x.stride()
    by_rows = column == 1
    # The lines of the left factor are its rows, those of the right one its columns.
    return _Factor(x.data_ptr(), row if by_rows else column, by_rows != right), x


def _by_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _outer(out: Tensor, left: Tensor, right: Tensor) -> _Outer:
    """A sum as C takes it: the narrower factor on the left."""
    row, column = out.stride()
    (terms, rows), columns = left.shape, right.shape[1]
    assert row == 1 or column == 1
    assert (out.dtype, left.dtype, right.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    if rows > columns:
        left, right, row, column, rows, columns = right, left, column, row, columns, rows
    return _Outer(
        *(out.data_ptr(), row, column, left.data_ptr(), right.data_ptr()),
        *(left.stride(0), right.stride(0), terms, rows, columns),
    )


@cache
def half_products() -> HalfProducts | None:
    """Return the products of bfloat16; None where there is no library, or where the processor has no such tiles."""
    native = library()
    if native is None or not native.has_half_products() or not native.has_tiles():
        return None
    found = HalfProducts(native)
    return found if _is_right(found) else None


def _is_right(products: HalfProducts) -> bool:
    """Whether it computes what is expected of it, on numbers whose sums need no rounding."""
    left = torch.arange(-35, 35).remainder(5).sub(2).bfloat16()[:, None] * torch.ones(70, 40).bfloat16()
    right = torch.arange(90).remainder(3).bfloat16() * torch.ones(40, 90).bfloat16()
    found = products.mm_with(left, right, None, ())
    return found is not None and torch.equal(found[0].float(), left.float() @ right.float())
