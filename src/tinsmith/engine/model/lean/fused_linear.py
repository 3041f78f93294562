"""Linear layers of one input as one product, with the adapters of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinsmith.engine.model.lean.pass_adapters import Delta, Output, PassAdapters
from tinsmith.engine.model.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """Linear layers of one input as one product.

    Attributes:
        names: of the layers.
        weight: [sum of outputs, in]; the layers' own weights are views of it.
        bias: [sum of outputs].
        widths: outputs of each.
    """

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    widths: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[tuple[str, nn.Linear]]) -> FusedLinear:
        """Put the weights of layers into one tensor, of which each layer keeps its part, so that none is held twice."""
        names = tuple(name for name, _ in layers)
        linears = [linear for _, linear in layers]
        widths = tuple(linear.out_features for linear in linears)
        if len(linears) == 1:
            return cls(names, linears[0].weight, linears[0].bias, widths)
        weight, bias = (_join(linears, kind) for kind in ("weight", "bias"))
        assert weight is not None
        return cls(names, weight, bias, widths)

    def bind(self, tokens: int, adapters: PassAdapters, workspace: Workspace) -> Product:
        """Return the product of so many rows, with these adapters."""
        # By kind, so that all layers write to the same memory.
        y = workspace.room(self.names[0].rpartition(".")[2], (tokens, self.weight.shape[0]), self.weight)
        return Product(self.weight.t(), self.bias, y, adapters.bind(Output(y, self.names, self.widths), workspace))


@dataclass(frozen=True, slots=True)
class Product:
    """A fused linear layer with the adapters of a pass, bound to its output.

    Attributes:
        weight: [in, sum of outputs].
        bias: [sum of outputs].
        y: the output, [T, sum of outputs], which each call overwrites.
        deltas: of the adapters.
    """

    weight: Tensor
    bias: Tensor | None
    y: Tensor
    deltas: list[Delta]

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, sum of outputs]."""
        if self.bias is None:
            torch.mm(x, self.weight, out=self.y)
        else:
            torch.addmm(self.bias, x, self.weight, out=self.y)
        for delta in self.deltas:
            delta.add(x)
        return self.y


def _join(linears: Sequence[nn.Linear], kind: str) -> Tensor | None:
    found = [getattr(linear, kind) for linear in linears]
    if all(tensor is None for tensor in found):
        return None
    whole = torch.cat([tensor.detach() for tensor in found])
    start = 0
    for linear, tensor in zip(linears, found, strict=True):
        part = whole[start : start + tensor.shape[0]]
        setattr(linear, kind, nn.Parameter(part, requires_grad=False))
        start += tensor.shape[0]
    return whole
