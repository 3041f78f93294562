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

    @property
    def gains_by_columns(self) -> bool:
        """Whether its outputs for few tokens are better computed by columns, see `Output`: as W·xᵀ, not x·Wᵀ.

        On a CPU the right factor of a product of bfloat16 is brought into the order of the processor's tiles in each
        call. With the weight there, that is one more pass over it.
        """
        return self.weight.dtype.itemsize < 4 and self.weight.device.type == "cpu" and self.bias is None

    def bind(self, tokens: int, adapters: PassAdapters, workspace: Workspace, by_columns: bool = False) -> Product:
        """Return the product of so many rows, with these adapters; `by_columns` as in `Output`."""
        # By kind, so that all layers write to the same memory.
        use, outputs = self.names[0].rpartition(".")[2], self.weight.shape[0]
        if by_columns:
            y = workspace.room(use, (outputs, tokens), self.weight).t()
        else:
            y = workspace.room(use, (tokens, outputs), self.weight)
        deltas = adapters.bind(Output(y, by_columns, self.names, self.widths), workspace)
        return Product(self.weight.t(), self.bias, y, by_columns, deltas)


@dataclass(frozen=True, slots=True)
class Product:
    """A fused linear layer with the adapters of a pass, bound to its output.

    Attributes:
        weight: [in, sum of outputs].
        bias: [sum of outputs]; None where the output is by columns.
        y: the output, [T, sum of outputs], which each call overwrites.
        by_columns: see `Output`.
        deltas: of the adapters.
    """

    weight: Tensor
    bias: Tensor | None
    y: Tensor
    by_columns: bool
    deltas: list[Delta]

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, sum of outputs]."""
        if self.by_columns:
            torch.mm(self.weight.t(), x.t(), out=self.y.t())
        elif self.bias is None:
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
