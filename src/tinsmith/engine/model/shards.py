"""Tensor parallelism: linear layers whose weight `transformers` has split over the ranks of a group.

Every rank keeps whole adapters and computes with its part of them, as views: a layer split by outputs uses its rows
of B, one split by inputs its columns of A (Shoeybi et al. 2019, arXiv:1909.08053, section 3). What a rank adds to an
adapter's gradient is its summand, so one sum over the ranks at the end of a pass completes all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from tinsmith.engine.adapters.slots import PassGradients


@dataclass(frozen=True, slots=True)
class ShardedDense:
    """This rank's part of an `nn.Linear`.

    Attributes:
        weight: [out / ranks, in] where split by outputs, else [out, in / ranks].
        bias: [out / ranks], or whole where the split is by inputs, added once after the sum.
        by_outputs: which of the two axes is split.
        start: first output or input of this part.
        group: the ranks.
    """

    weight: Tensor
    bias: Tensor | None
    by_outputs: bool
    start: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, linear: nn.Linear) -> ShardedDense:
        """Take the local part of a layer that has been distributed over one axis of a mesh."""
        weight = linear.weight
        assert isinstance(weight, DTensor)
        (placement,) = weight.placements
        if not isinstance(placement, Shard):
            raise NotImplementedError(f"a linear layer placed as {placement}")
        # Axis 0 of [out, in], or -2; the modulus makes both 0.
        by_outputs = placement.dim % 2 == 0
        local, mesh = weight.to_local(), weight.device_mesh
        # Uneven parts would be legal for DTensor, but then `start` could not be told from the rank.
        if local.shape[placement.dim] * mesh.size() != weight.shape[placement.dim]:
            raise NotImplementedError(f"a weight of shape {tuple(weight.shape)} over {mesh.size()} ranks")
        bias = linear.bias.to_local() if isinstance(linear.bias, DTensor) else linear.bias
        start = mesh.get_local_rank() * local.shape[placement.dim]
        return cls(local, bias, by_outputs, start, mesh.get_group())

    def apply(self, x: Tensor) -> Tensor:
        """This rank's outputs, or its summand of all."""
        # Split by inputs, every rank has a summand of all outputs; the bias would be added once per rank.
        return F.linear(x, self.weight, self.bias if self.by_outputs else None)

    def finish(self, y: Tensor) -> None:
        """Complete the layer's output in place."""
        if not self.by_outputs:
            dist.all_reduce(y, group=self.group)
            if self.bias is not None:
                y.add_(self.bias)

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        """This rank's inputs' gradient, or its summand of all inputs'."""
        return torch.mm(grad_y, self.weight)

    def finish_gradient(self, grad_x: Tensor) -> None:
        """Complete the gradient of the layer's input in place."""
        if self.by_outputs:
            dist.all_reduce(grad_x, group=self.group)

    def part(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The part of an adapter's A [..., rank, in] and B [..., out, rank] that this rank computes with."""
        if self.by_outputs:
            return a, b.narrow(-2, self.start, self.weight.shape[0])
        return a.narrow(-1, self.start, self.weight.shape[1]), b


def gather_weight(linear: nn.Linear) -> None:
    """Put a whole weight in the place of a distributed one; every rank calls this."""
    for name in ("weight", "bias"):
        tensor = getattr(linear, name)
        if isinstance(tensor, DTensor):
            setattr(linear, name, nn.Parameter(tensor.full_tensor(), requires_grad=False))


def sum_gradients(gradients: PassGradients, replicated: Iterable[str], group: dist.ProcessGroup) -> None:
    """Sum a pass's gradients over the ranks.

    Args:
        gradients: of this rank; every rank has those of the same adapters, in the same order.
        replicated: targets that every rank has computed whole; they count once.
        group: the ranks.
    """
    names = list(replicated)
    for slot, flat in gradients.flats.items():
        # Whole gradients of a replicated target would be counted once per rank: all but the first give zeros.
        if dist.get_rank(group) != 0:
            for name in names:
                if name in slot.pool.layout.places:
                    for view in gradients.views(slot, name):
                        view.zero_()
        dist.all_reduce(flat, group=group)
