"""Matrix products whose result may be wider than their factors: bfloat16 in, sums in float32, float32 out.

Processors multiply bfloat16 several times faster than float32, and add up in float32 all the same. But what torch
offers on a CPU rounds the sums to bfloat16 on their way out, and widened factors cost the speed, and for a weight a
copy that takes longer than the product itself. The library beneath torch on x86, Intel's MKL, has the product that is
needed, `cblas_gemm_bf16bf16f32`, so it is called directly where it is there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Takes left [n, k], right [k, m], out [n, m] with rows that each lie in one piece, and the factor on what `out` holds.
Kernel = Callable[[Tensor, Tensor, Tensor, float], None]

# Of the CBLAS interface: matrices lie row by row, and are taken as they are or transposed.
_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112


def wide_mm(left: Tensor, right: Tensor, wide: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Return left·right, accumulated and kept in a dtype that may be wider than theirs; not differentiable.

    Args:
        left: [n, k].
        right: [k, m], of the same dtype.
        wide: dtype of the result.
        out: where to write it, contiguous; else it is a fresh tensor.

    Returns:
        [n, m], dtype `wide`.
    """
    if left.dtype == wide:
        return torch.mm(left, right, out=out)
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=wide, out=out)
    if _KERNEL is None or left.dtype != torch.bfloat16:
        return torch.mm(left.to(wide), right.to(wide), out=out)
    out = left.new_empty(left.shape[0], right.shape[1], dtype=wide) if out is None else out
    _KERNEL(left, right, out, 0.0)
    return out


def add_wide_mm(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left·right to `out` [n, m], whose dtype may be wider than theirs and whose rows each lie in one piece."""
    if out.dtype == left.dtype:
        out.addmm_(left, right)
    elif out.device.type == "cuda":
        # The kernel accumulates in the wide dtype anyway; this only keeps it from rounding the sum on the way out.
        out.add_(torch.mm(left, right, out_dtype=out.dtype))
    elif _KERNEL is None or left.dtype != torch.bfloat16:
        out.addmm_(left.to(out.dtype), right.to(out.dtype))
    else:
        _KERNEL(left, right, out, 1.0)


def find_kernel() -> Kernel | None:
    """Return MKL's product of bfloat16 into float32; None where torch is built without it, or where it is not right."""
    try:
        gemm = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).cblas_gemm_bf16bf16f32
    # No such function in it, or no such file: other systems have other names, and other processors another library.
    except (AttributeError, OSError):
        return None
    whole, real, place = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    gemm.argtypes = [*[whole] * 6, real, *[place, whole] * 2, real, place, whole]
    gemm.restype = None

    def kernel(left: Tensor, right: Tensor, out: Tensor, beta: float) -> None:
        n, m, k = left.shape[0], right.shape[1], left.shape[1]
        # Held until the call is over: a layout can be a copy.
        x, x_order, x_stride = _layout(left)
        y, y_order, y_stride = _layout(right)
        assert out.dtype == torch.float32
        assert out.stride(1) == 1 or m == 1
        gemm(
            *(_ROW_MAJOR, x_order, y_order, n, m, k, 1.0),
            *(x.data_ptr(), x_stride, y.data_ptr(), y_stride),
            *(beta, out.data_ptr(), max(out.stride(0), m)),
        )

    return kernel if _is_right(kernel) else None


def _layout(x: Tensor) -> tuple[Tensor, int, int]:
    """A matrix as CBLAS takes it: whether it is transposed, and the distance of what lies row by row."""
    rows, columns = x.shape
    if x.stride(1) == 1 and (x.stride(0) >= columns or rows == 1):
        return x, _AS_IT_IS, max(x.stride(0), columns)
    if x.stride(0) == 1 and (x.stride(1) >= rows or columns == 1):
        return x, _TRANSPOSED, max(x.stride(1), rows)
    return x.contiguous(), _AS_IT_IS, columns


def _is_right(kernel: Kernel) -> bool:
    """Whether it computes what is expected of it: the interface has a variant with wider integers."""
    left = torch.arange(-7, 8, dtype=torch.bfloat16).view(3, 5)
    right = torch.arange(20, dtype=torch.bfloat16).view(4, 5).t()
    out = torch.full((3, 4), 1 / 1024)
    kernel(left, right, out, 1.0)
    return torch.equal(out, left.float() @ right.float() + 1 / 1024)


_KERNEL = find_kernel()
