"""RMSNorm of the Llama family (Zhang & Sennrich 2019, arXiv:1910.07467, equation 4) in few operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Float32:
    """x·w·√n / √(|x|² + n·ε), which is the norm: a third of `F.rms_norm`'s operations, and exact to rounding.

    Attributes:
        weight: w·√n.
        floor: √(n·ε), no dimension.
    """

    weight: Tensor
    floor: Tensor

    @classmethod
    def of(cls, weight: Tensor, epsilon: float) -> _Float32:
        n = weight.shape[-1]
        return cls(weight * math.sqrt(n), weight.new_tensor(math.sqrt(n * epsilon)))

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self.floor)
        return torch.div(x, size, out=out).mul_(self.weight)


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm before attention, before the MLP or at the end."""

    module: Any
    float32: _Float32

    @classmethod
    def of(cls, module: Any) -> Norm:
        return cls(module, _Float32.of(module.weight, module.variance_epsilon))

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return self.float32(x)
        # The modules compute in float32 and round before the weight: torch does so below float32, and not above.
        if x.dtype.itemsize < 4:
            return F.rms_norm(x, x.shape[-1:], None, self.module.variance_epsilon).mul_(self.module.weight)
        return self.module(x)


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """The norms of query heads and key heads, side by side."""

    query: Any
    key: Any
    heads: int
    weight: Tensor
    float32: _Float32

    @classmethod
    def of(cls, attention: Any, heads: int, key_heads: int) -> HeadNorms | None:
        if not hasattr(attention, "q_norm"):
            return None
        query, key = attention.q_norm, attention.k_norm
        weight = torch.cat([query.weight.expand(heads, -1), key.weight.expand(key_heads, -1)])
        return cls(query, key, heads, weight, _Float32.of(weight, query.variance_epsilon))

    def __call__(self, x: Tensor, out: Tensor) -> None:
        if x.dtype == torch.float32:
            self.float32(x, out)
        elif x.dtype.itemsize < 4:
            torch.mul(F.rms_norm(x, x.shape[-1:], None, self.query.variance_epsilon), self.weight, out=out)
        else:
            torch.cat([self.query(x[:, : self.heads]), self.key(x[:, self.heads :])], 1, out=out)
