"""Products of float32 by the processor's units for bfloat16, as exact as those of float32: see `split_products.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.tiles.products import WHOLE, Addition, Outer

# The shorter side of a weight below which splitting the rows costs more than the tiles gain: adapters of usual ranks.
_NARROW = 64
# The smallest number that rounds to infinity in bfloat16.
_BEYOND = (2 - 2**-8) * 2.0**127


class _Factor(Structure):
    """`factor` of `parts.h`."""

    _fields_ = (("at", c_void_p), ("stride", c_int64), ("along", c_int64), ("paired", c_int64))


class _Delta(Structure):
    """`delta` of `split_products.c`."""

    _fields_ = (
        *((name, c_int64) for name in ("start", "end", "rank")),
        *(("down", _Factor), ("up", _Factor), ("hidden", c_void_p), ("scale", c_float)),
    )


class SplitProducts:
    """`Products` of all rows in one call, of float32 on a CPU with tiles.

    How a product is computed follows from the weight alone, never from the number of rows: so a row has the same bits
    whatever its neighbours are.

    Args:
        library: with the functions of `split_products.c`.
    """

    tile = 1

    def __init__(self, library: ctypes.CDLL) -> None:
        self._multiply = library.multiply_split
        self._multiply.argtypes = [
            *(c_void_p, c_int64, POINTER(_Factor), POINTER(_Factor)),
            *[c_int64] * 4,
            *(POINTER(_Delta), c_int64, c_int64),
        ]
        self._multiply.restype = library.largest_rank.restype = c_int64
        self._largest_rank: int = library.largest_rank()

    def mm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, in] times [in, out]: [n, out], fresh or written into `out`."""
        if _is_narrow(weight):
            return WHOLE.mm(x, weight, out)
        out = x.new_empty(x.shape[0], weight.shape[1]) if out is None else out
        self._multiply_into(out, x, weight, add=False)
        return out

    def add_mm(self, y: Tensor, x: Tensor, weight: Tensor) -> None:
        """Add [n, in] times [in, out] to `y` [n, out], in place."""
        if _is_narrow(weight):
            WHOLE.add_mm(y, x, weight)
        else:
            self._multiply_into(y, x, weight, add=True)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in] to [n, out] with `weight` [out, in] and `bias` [out]."""
        y = self.mm(x, weight.t())
        return y if bias is None else y.add_(bias)

    def mm_with(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        additions: Sequence[Addition],
        out: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """`mm` with a bias and with what adapters add to its rows, and scale·x·down of each.

        Into `out` [n, out], if it is given: where its dtype is wider, in one sum that is not rounded. None where
        that is to be done apart.
        """
        if _is_narrow(weight) or any(a.down.shape[1] > self._largest_rank for a in additions):
            return None
        out = x.new_empty(x.shape[0], weight.shape[1]) if out is None else out
        hidden = [x.new_empty(a.end - a.start, a.down.shape[1]) for a in additions]
        # The second ones are held until the call is over: a layout can be a copy.
        factors = [(_factor(a.down, right=True), _factor(a.up, right=True)) for a in additions]
        deltas = (_Delta * len(additions))(
            *(
                _Delta(a.start, a.end, a.down.shape[1], down, up, h.data_ptr(), a.scale)
                for a, h, ((down, _), (up, _)) in zip(additions, hidden, factors, strict=True)
            )
        )
        if self._run(out, x, weight, False, deltas):
            _repair(out, hidden, x, weight, additions)
        return out if bias is None else out.add_(bias), hidden

    def add_outer(self, sums: Sequence[Outer]) -> None:
        """Add leftᵀ·right of each to its `out`."""
        WHOLE.add_outer(sums)

    def _multiply_into(self, out: Tensor, left: Tensor, right: Tensor, *, add: bool) -> None:
        if self._run(out, left, right, add):
            # What is no finite number counted as zero. Its rows and columns get what it makes of them, others a zero.
            rows, columns = _bounded(left), _bounded(right)
            out.addmm_(left - rows, columns).addmm_(rows, right - columns)

    def _run(
        self, out: Tensor, left: Tensor, right: Tensor, add: bool, deltas: ctypes.Array[_Delta] | None = None
    ) -> bool:
        """Multiply; return whether anything was no finite number."""
        assert out.stride(1) == 1
        (a, _a), (b, _b) = _factor(left, right=False), _factor(right, right=True)
        said = self._multiply(
            *(out.data_ptr(), out.stride(0), a, b, left.shape[0], right.shape[1], left.shape[1], add),
            *(deltas, 0 if deltas is None else len(deltas), torch.get_num_threads()),
        )
        if said < 0:
            raise MemoryError(f"no memory to multiply {list(left.shape)} by {list(right.shape)}")
        return said > 0


def _factor(x: Tensor, *, right: bool) -> tuple[_Factor, Tensor]:
    """A matrix as C takes it, and what is to be held meanwhile."""
    if x.stride(1) != 1 and x.stride(0) != 1:
        x = x.contiguous()
    by_rows = x.stride(1) == 1
    # The lines of the left factor are its rows, those of the right one its columns.
    return _Factor(x.data_ptr(), x.stride(0) if by_rows else x.stride(1), by_rows != right, right), x


def _unbounded(x: Tensor) -> Tensor:
    """Which numbers count as zero in C: those that are not finite, and those so large that their high part is not."""
    return (x.abs() < _BEYOND).logical_not_()


def _bounded(x: Tensor) -> Tensor:
    return x.where(x.abs() < _BEYOND, 0)


def _repair(out: Tensor, hidden: Sequence[Tensor], x: Tensor, weight: Tensor, additions: Sequence[Addition]) -> None:
    """Compute rows anew in which something is no finite number, and leave the others as they are."""
    bad = _unbounded(x).any(1)
    if _unbounded(weight).any():
        bad.fill_(True)
    for a, h in zip(additions, hidden, strict=True):
        own = bad[a.start : a.end]
        own |= _unbounded(h).any(1)
        if _unbounded(a.down).any() or _unbounded(a.up).any():
            own.fill_(True)
        h[own] = (x[a.start : a.end][own] @ a.down).mul_(a.scale)
    out[bad] = x[bad] @ weight
    for a, h in zip(additions, hidden, strict=True):
        own = bad[a.start : a.end]
        out[a.start : a.end][own] += h[own] @ a.up


def _is_narrow(weight: Tensor) -> bool:
    return min(weight.shape) < _NARROW


@cache
def split_products() -> SplitProducts | None:
    """Return the products of float32; None where there is no library, or where the processor has no such tiles."""
    native = library()
    if native is None or not native.has_tiles():
        return None
    found = SplitProducts(native)
    return found if _is_right(found) else None


def _is_right(products: SplitProducts) -> bool:
    """Whether it computes what is expected of it, on numbers of few bits and of many."""
    left = torch.linspace(-1, 2, 70 * 100).view(70, 100)
    right = torch.linspace(-2, 1, 100 * 90).sin().view(100, 90)
    wanted = left.double() @ right.double()
    return bool((products.mm(left, right) - wanted).norm() < 1e-6 * wanted.norm())
