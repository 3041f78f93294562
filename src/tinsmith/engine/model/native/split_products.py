"""Products of float32 by the processor's units for bfloat16, as exact as those of float32: see `split_products.c`."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.tiles.products import WHOLE, Products

# The shorter side of a weight below which splitting the rows costs more than the tiles gain: adapters of usual ranks.
_NARROW = 64
# The smallest number that rounds to infinity in bfloat16.
_BEYOND = (2 - 2**-8) * 2.0**127


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
        self._multiply.argtypes = [c_void_p, c_int64, *[c_void_p, c_int64, c_int64] * 2, *[c_int64] * 5]
        self._multiply.restype = c_int64

    def mm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, in] times [in, out]: [n, out], fresh or written into `out`."""
        if _is_narrow(weight):
            return WHOLE.mm(x, weight, out)
        out = x.new_empty(x.shape[0], weight.shape[1]) if out is None else out
        self._run(out, x, weight, add=False)
        return out

    def add_mm(self, y: Tensor, x: Tensor, weight: Tensor) -> None:
        """Add [n, in] times [in, out] to `y` [n, out], in place."""
        if _is_narrow(weight):
            WHOLE.add_mm(y, x, weight)
        else:
            self._run(y, x, weight, add=True)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in] to [n, out] with `weight` [out, in] and `bias` [out]."""
        y = self.mm(x, weight.t())
        return y if bias is None else y.add_(bias)

    def _run(self, out: Tensor, left: Tensor, right: Tensor, *, add: bool) -> None:
        assert out.stride(1) == 1
        left, left_stride, left_along = _layout(left)
        # The right factor's lines are its columns.
        right, right_stride, right_apart = _layout(right)
        said = self._multiply(
            *(out.data_ptr(), out.stride(0)),
            *(left.data_ptr(), left_stride, left_along, right.data_ptr(), right_stride, not right_apart),
            *(left.shape[0], right.shape[1], left.shape[1], add, torch.get_num_threads()),
        )
        if said < 0:
            raise MemoryError(f"no memory to multiply {list(left.shape)} by {list(right.shape)}")
        if said:
            # What is no finite number counted as zero. Its rows and columns get what it makes of them, others a zero.
            rows, columns = _bounded(left), _bounded(right)
            out.addmm_(left - rows, columns).addmm_(rows, right - columns)


def _bounded(x: Tensor) -> Tensor:
    """What the parts of `x` hold: zero for a number that is not finite, or so large that its high part is not."""
    return x.where(x.abs() < _BEYOND, 0)


def _is_narrow(weight: Tensor) -> bool:
    return min(weight.shape) < _NARROW


def _layout(x: Tensor) -> tuple[Tensor, int, bool]:
    """A matrix, the distance of its rows, and whether they are rows in memory; else the distance of its columns."""
    if x.stride(1) == 1:
        return x, x.stride(0), True
    if x.stride(0) == 1:
        return x, x.stride(1), False
    return x.contiguous(), x.shape[1], True


def fast_products(device: torch.device, dtype: torch.dtype) -> Products:
    """Return the fastest products of a model there."""
    split = _split_products() if device.type == "cpu" and dtype == torch.float32 else None
    return split or WHOLE


@cache
def _split_products() -> SplitProducts | None:
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
