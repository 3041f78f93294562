"""The functions of `layers.h` and `softmax.c` as autograd takes them: tensors go through memory once each way."""

from __future__ import annotations

from ctypes import c_float, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library

# Addresses, numbers of rows and the like, and whether an epsilon comes before the number of threads.
_PARAMETERS = {
    "add_norm": (6, 2, True),
    "add_norm_gradient": (6, 2, False),
    "turn": (6, 3, True),
    "turn_gradient": (7, 3, False),
    "swiglu": (3, 1, False),
    "swiglu_gradient": (5, 1, False),
}
_EXPONENTIALS = (3, 2, False)
# Of the functions' names, by what they compute with.
_SUFFIXES = {torch.float32: "", torch.bfloat16: "_bfloat16"}


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    """Find a function, and tell what its parameters are."""
    places, sizes, epsilon = _PARAMETERS.get(name, _EXPONENTIALS)
    found = getattr(library(), name + _SUFFIXES[dtype])
    found.argtypes = [*[c_void_p] * places, *[c_int64] * sizes, *[c_float] * epsilon, c_int64]
    found.restype = None
    return found


def run_here(x: Tensor) -> bool:
    """Whether there are functions for such tensors: on a CPU, with a library; bfloat16 is not for every processor."""
    native = library() if x.device.type == "cpu" else None
    return native is not None and (
        x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and bool(native.has_bfloat16_layers()))
    )


def _call(name: str, x: Tensor, *arguments: Tensor | float | None) -> None:
    """Call the function for x's dtype with this thread's number of threads; None is no address."""
    places = (a.data_ptr() if isinstance(a, Tensor) else a for a in (x, *arguments))
    _function(name, x.dtype)(*places, torch.get_num_threads())


class AddNorm(torch.autograd.Function):
    """x [T, n] and what is added to it, or None, to their sum and its RMSNorm, each [T, n]; see `norms.RmsNorm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, delta = x.contiguous(), None if delta is None else delta.contiguous()
        total = x.view_as(x) if delta is None else torch.empty_like(x)
        y, factor = torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.float32)
        _call("add_norm", total, y, factor, x, delta, weight, *x.shape, eps)
        ctx.save_for_backward(total, weight, factor)
        return total, y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        total, weight, factor = ctx.saved_tensors
        carried, g = (grad.contiguous() for grad in grads)
        to = torch.empty_like(g)
        _call("add_norm_gradient", to, g, carried, total, weight, factor, *g.shape)
        return to, to if ctx.needs_input_grad[1] else None, None, None


class Turn(torch.autograd.Function):
    """Heads [T, heads, d], normed where there is a weight [d] and rotated by the angles [T, d] of their tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        factor = None if weight is None else x.new_empty(x.shape[:2], dtype=torch.float32)
        _call("turn", y, factor, x, weight, cos, sin, *x.shape, eps)
        # A rotation alone is undone without what was rotated.
        ctx.save_for_backward(None if weight is None else x, weight, factor, cos, sin)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, weight, factor, cos, sin = ctx.saved_tensors
        g = grads[0].contiguous()
        to = torch.empty_like(g)
        _call("turn_gradient", to, g, g if x is None else x, weight, factor, cos, sin, *g.shape)
        return to, None, None, None, None


class Swiglu(torch.autograd.Function):
    """silu(gate)·up; nothing but the two is kept for the gradients."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        _call("swiglu", y, gate, up, gate.numel())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        _call("swiglu_gradient", of_gate, of_up, grads[0].contiguous(), gate, up, gate.numel())
        return of_gate, of_up


def exponentials(z: Tensor) -> tuple[Tensor, Tensor]:
    """Replace logits z [n, V] by e^(z - peak) of their row; return peaks and the sums of what stands there, [n, 1]."""
    assert z.is_contiguous()
    peak, total = z.new_empty(z.shape[0], 1), z.new_empty(z.shape[0], 1)
    _call("exponentials", z, peak, total, *z.shape)
    return peak, total
