"""RMSNorm in a few passes over its input, with a backward pass of its own (Zhang & Sennrich 2019, arXiv:1910.07467).

y = w·x·r with r = (mean of x² + eps)^-1/2 of each row. As `transformers` writes it, autograd keeps two tensors more
of the size of x and goes over them nine times; with w frozen, x and r are enough. With g the gradient of y and n the
width of a row: grad x = r·(w·g) - x·r³·(w·g)·x / n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# How far a module may be from the formula to be taken for it, relative to 1: its own rounding.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class RmsNorm(torch.autograd.Function):
    """x [..., n], w [n], eps to [..., n]; the statistics in float32 or wider. w gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        factor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # [..., 1]
        ctx.save_for_backward(x, weight, factor)
        return (wide * factor).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, factor = ctx.saved_tensors
        wide = x.to(factor.dtype)
        g = (grads[0] * weight).to(factor.dtype)
        along = torch.linalg.vecdot(g, wide)[..., None].mul_(factor.pow(3).div_(-x.shape[-1]))
        return g.mul_(factor).addcmul_(wide, along).to(x.dtype), None, None


class FusedRmsNorm(nn.Module):
    """In the place of an RMSNorm of `transformers`, with its tensor and its names."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] to [..., n]."""
        return RmsNorm.apply(x, self.weight, self.variance_epsilon)  # pyright: ignore[reportReturnType]


def fuse_norms(model: nn.Module) -> int:
    """Replace the RMSNorms of a model that compute this formula, in float32 and below; return how many.

    In float64 they stay: `transformers` computes their statistics in float32 there, and the engine's float64 is what
    its gradients are compared with others' in.
    """
    found = 0
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and _is_plain(module):
            model.set_submodule(path, FusedRmsNorm(module.weight, module.variance_epsilon))  # pyright: ignore
            found += 1
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is this formula: others of that name add 1 to the weight, or divide before they multiply."""
    eps = getattr(module, "variance_epsilon", None)
    if not isinstance(eps, float) or [name for name, _ in module.named_parameters()] != ["weight"]:
        return False
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.dtype not in _ROUNDING:
        return False
    # Small numbers too, where eps counts. Without a random number: loading leaves the generators as they are.
    steps = torch.linspace(-2, 3, 4 * weight.shape[0], device=weight.device).view(4, -1)
    x = (steps * torch.tensor([1.0, 1e-3, 10.0, 0.1], device=weight.device)[:, None]).to(weight.dtype)
    with torch.no_grad():
        wanted, got = module(x), RmsNorm.apply(x, weight, eps)
    return torch.allclose(wanted, got, rtol=_ROUNDING[weight.dtype], atol=1e-6)  # pyright: ignore[reportArgumentType]
