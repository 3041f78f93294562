"""Which weights of the base an adapter acts on, and where its A and B lie in one flat vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tinsmith.types.params import LoraConfig

# Whatever the rank is, so that a learning rate found at one rank serves for others (Schulman et al. 2025, "LoRA without
# regret").
ALPHA = 32.0
# Powers of two: zero padding less than doubles an adapter, and six pools at most hold all ranks of one set of switches.
RANK_BUCKETS = (8, 16, 32, 64, 128, 256)
# Views start at a multiple of this many elements, because grouped matrix kernels want aligned pointers.
_ALIGNMENT = 16

TargetKind = Literal["attn", "mlp", "unembed"]


@dataclass(frozen=True, slots=True)
class Target:
    """A weight of the base that adapters act on.

    Attributes:
        name: of the module in the `transformers` model; for experts, of the fused parameter.
        kind: which switch of `LoraConfig` turns it on.
        inputs: width of the input.
        outputs: width of the output.
        experts: number of experts; 0 for a linear layer.
        experts_per_token: experts that a token visits; 1 for a linear layer.
    """

    name: str
    kind: TargetKind
    inputs: int
    outputs: int
    experts: int = 0
    experts_per_token: int = 1

    def rank(self, rank: int) -> int:
        """Rank of this weight's adapter: an expert gets its share, so that a token meets about `rank` in all."""
        return max(1, rank // self.experts_per_token) if self.experts else rank

    @property
    def parameters(self) -> int:
        """Parameters of this weight's adapter per unit of the rank that was asked for."""
        return (self.inputs + self.outputs) * max(1, self.experts) // self.experts_per_token


@dataclass(frozen=True, slots=True)
class Place:
    """Where A and B of one target lie in an adapter's flat vector."""

    target: Target
    a_offset: int
    a_shape: tuple[int, ...]
    b_offset: int
    b_shape: tuple[int, ...]

    def a(self, flat: Tensor) -> Tensor:
        """A of `flat` [..., P]: [..., rank, in], for experts [..., experts, rank, in]."""
        return view_of(flat, self.a_offset, self.a_shape)

    def b(self, flat: Tensor) -> Tensor:
        """B of `flat` [..., P]: [..., out, rank], for experts [..., experts, out, rank]."""
        return view_of(flat, self.b_offset, self.b_shape)


def view_of(flat: Tensor, offset: int, shape: tuple[int, ...]) -> Tensor:
    """Return a part of `flat` [..., P] that begins at `offset`, [..., *shape]."""
    size = 1
    for n in shape:
        size *= n
    return flat.narrow(-1, offset, size).unflatten(-1, shape)


def bucket_of(rank: int) -> int:
    """Return the smallest rank bucket that holds `rank`, which is at most the largest."""
    return next(b for b in RANK_BUCKETS if b >= rank)


class Layout:
    """The places of all targets for adapters of one rank bucket and one set of switches."""

    def __init__(self, targets: Iterable[Target], bucket: int) -> None:
        self.bucket = bucket
        self.places: dict[str, Place] = {}
        self.size = 0
        shapes: list[tuple[Target, tuple[int, ...], tuple[int, ...]]] = []
        for target in targets:
            rank = target.rank(bucket)
            stack = (target.experts,) if target.experts else ()
            shapes.append((target, (*stack, rank, target.inputs), (*stack, target.outputs, rank)))
        # All A, then all B: so the A of targets with one input, which are neighbours in a model, are one matrix.
        a_offsets = [self._take(a_shape) for _, a_shape, _ in shapes]
        for (target, a_shape, b_shape), a_offset in zip(shapes, a_offsets, strict=True):
            self.places[target.name] = Place(target, a_offset, a_shape, self._take(b_shape), b_shape)

    def _take(self, shape: tuple[int, ...]) -> int:
        offset = self.size
        # Rounded up; the gap belongs to no view and stays zero.
        self.size += -(-torch.Size(shape).numel() // _ALIGNMENT) * _ALIGNMENT
        return offset


def targets_for(targets: Iterable[Target], lora: LoraConfig) -> tuple[Target, ...]:
    """Return the targets that an adapter of this config acts on."""
    on = {"attn": lora.train_attn, "mlp": lora.train_mlp, "unembed": lora.train_unembed}
    return tuple(t for t in targets if on[t.kind])
