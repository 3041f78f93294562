"""The fused RMSNorm: the module's numbers, autograd's gradient, and only where a module is that formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tinsmith.engine.model.norms import FusedRmsNorm, RmsNorm, fuse_norms


def plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize("shape", [(7, 12), (1, 5, 3, 8), (0, 8)])
def test_value_and_gradient_equal_autograd(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x[:1] *= 1e-4  # where eps counts
    x.requires_grad_()
    weight = torch.randn(shape[-1], dtype=torch.float64, generator=generator)
    grad = torch.randn(shape, dtype=torch.float64, generator=generator)
    found, wanted = RmsNorm.apply(x, weight, 1e-6), plain(x, weight, 1e-6)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    (a,), (b,) = torch.autograd.grad(found, x, grad), torch.autograd.grad(wanted, x, grad)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_module_is_replaced_by_its_own_numbers(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    norm = Qwen3RMSNorm(64).to(dtype).requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5)
    model = nn.Sequential(norm)
    x = torch.randn(9, 64).to(dtype)
    wanted = model(x)
    assert fuse_norms(model) == 1
    assert isinstance(model[0], FusedRmsNorm)
    assert model[0].weight is norm.weight
    assert model(x).dtype == dtype
    assert ((model(x) - wanted).abs().max() / wanted.abs().max()).item() <= bound


def test_what_computes_something_else_stays() -> None:
    gemma = GemmaRMSNorm(8)
    double = Qwen3RMSNorm(8).double()
    other = Qwen3RMSNorm(8)
    other.forward = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
    with_bias = Qwen3RMSNorm(8)
    with_bias.bias = nn.Parameter(torch.zeros(8))
    model = nn.Sequential(gemma, double, other, with_bias, nn.RMSNorm(8))
    assert fuse_norms(model) == 0
