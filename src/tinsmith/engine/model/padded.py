"""Sequences of a packed stream as a few right-padded batches, the form that attention kernels take.

Padding to the longest of all would cost as much as the longest costs times their number; one batch per sequence would
cost a kernel launch each. Sequences of similar length share a batch, so that both costs stay small.

How wide a sequence's batch is follows from its own length alone, never from what else is in the pass. A kernel adds up
its keys in an order that depends on the width, so a width that neighbours had a say in would let them change the last
bits of a tenant's gradients.

Sequences that begin alike may share their head: its tokens stand in the stream once, as tokens of one of them, and in
the padded batches once for each, so that attention sees all sequences whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinsmith.engine.transfers import to_device

# Below this, widths are powers of two: short sequences cost less than the kernel launches of finer groups.
_COARSE_UP_TO = 64
_NARROWEST = 16
# Above it, so many widths per octave: at most a fifth of what attention computes is padding, a twelfth on average.
_WIDTHS_PER_OCTAVE = 4


class Head(NamedTuple):
    """What a sequence has before its own tokens: the first `tokens` ones of sequence `lender`, which has no head."""

    lender: int
    tokens: int


NO_HEAD = Head(0, 0)


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Sequences of similar length that attention computes as one right-padded batch.

    Attributes:
        members: indices of its sequences in the stream, rising; empty ones belong to no group.
        width: tokens that each is padded to, by `width_of`.
        source: place of each token in the stream, int64 [tokens]; None where the group is the whole stream in order.
        target: place of each token in the padded batch, int64 [tokens]; None where nothing is padded.
        own: which of `source` are no tokens of a shared head, int64; None where all are.
        borrowed: the others, int64 each; no token of the stream is twice in one of these.
    """

    members: tuple[int, ...]
    width: int
    source: Tensor | None
    target: Tensor | None
    own: Tensor | None = None
    borrowed: tuple[Tensor, ...] = ()

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self.members)


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """How the sequences of a stream of `tokens` tokens are grouped for attention."""

    groups: tuple[LengthGroup, ...]
    tokens: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, heads: Sequence[Head] = ()) -> PaddedLayout:
        """Group the sequences by the width that each has by itself.

        Args:
            lengths: tokens of each sequence in the stream.
            device: of the layout.
            heads: of each sequence; empty where none has one.
        """
        heads = heads or [NO_HEAD] * len(lengths)
        by_width: dict[int, list[int]] = defaultdict(list)
        for i, length in enumerate(lengths):
            if length:
                by_width[width_of(heads[i].tokens + length)].append(i)
        shared = any(head.tokens for head in heads)
        whole = len(by_width) == 1 and not shared
        turns = _turns(heads) if shared else []
        groups = (_group(members, width, lengths, heads, turns, whole, device) for width, members in by_width.items())
        return cls(tuple(groups), sum(lengths))


def _turns(heads: Sequence[Head]) -> list[int]:
    """Number those that borrow from the same sequence, from 0; -1 for a sequence without a head."""
    lent: Counter[int] = Counter()
    turns: list[int] = []
    for head in heads:
        turns.append(lent[head.lender] if head.tokens else -1)
        lent[head.lender] += bool(head.tokens)
    return turns


def width_of(length: int) -> int:
    """Return how many tokens a sequence of `length` tokens (at least 1) is padded to."""
    above = 1 << (length - 1).bit_length()  # the next power of two
    if above <= _COARSE_UP_TO:
        return max(above, _NARROWEST)
    step = above // 2 // _WIDTHS_PER_OCTAVE
    return -(-length // step) * step


def _group(
    members: list[int],
    width: int,
    lengths: Sequence[int],
    heads: Sequence[Head],
    turns: Sequence[int],
    whole: bool,
    device: torch.device,
) -> LengthGroup:
    # The places are worked out on the CPU and moved once: on an accelerator each small step would be a launch.
    starts = torch.tensor((0, *lengths)).cumsum(0)
    index = torch.tensor(members)  # [S]
    head = torch.tensor([heads[i].tokens for i in members])
    sizes = head + torch.tensor(lengths)[index]
    offsets = torch.arange(int(sizes.sum())) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)  # [tokens]
    behind = offsets - torch.repeat_interleave(head, sizes)
    borrowed = behind < 0
    # A head lies where its lender begins.
    lender = torch.repeat_interleave(starts[torch.tensor([heads[i].lender for i in members])], sizes)
    source = torch.where(borrowed, lender + offsets, torch.repeat_interleave(starts[index], sizes) + behind)
    target = torch.repeat_interleave(torch.arange(len(members)) * width, sizes) + offsets
    parts: list[Tensor] = []
    if bool(borrowed.any()):
        turn = torch.repeat_interleave(torch.tensor([turns[i] for i in members]), sizes)
        parts = [(borrowed & (turn == k)).nonzero()[:, 0] for k in sorted({turns[i] for i in members} - {-1})]
    return LengthGroup(
        tuple(members),
        width,
        None if whole else to_device(source, device),
        None if bool((sizes == width).all()) else to_device(target, device),
        to_device((~borrowed).nonzero()[:, 0], device) if parts else None,
        tuple(to_device(part, device) for part in parts),
    )


def pad_groups(x: Tensor, layout: PaddedLayout, *, heads: bool = True) -> tuple[Tensor, ...]:
    """Split a stream [T, ...] into its groups, each [count * width, ...] with zeros for padding.

    Args:
        x: the stream.
        layout: its layout.
        heads: whether sequences get the heads that they share; else zeros stand there.
    """
    padded: list[Tensor] = []
    for group in layout.groups:
        picked = x if group.source is None else x.index_select(0, group.source)
        if not heads:
            for borrowed in group.borrowed:
                picked = picked.index_fill(0, borrowed, 0)
        if group.target is not None:
            # Zeros, not whatever memory holds: a NaN in a padded value would reach real tokens as 0 * NaN.
            blank = picked.new_zeros(group.count * group.width, *x.shape[1:])
            picked = blank.index_copy_(0, group.target, picked)
        padded.append(picked)
    return tuple(padded)


def unpad_groups(padded: Sequence[Tensor], layout: PaddedLayout, *, heads: bool = False) -> Tensor:
    """Inverse of `pad_groups`, padding dropped.

    Args:
        padded: the groups.
        layout: of the stream.
        heads: whether what stands at the copies of a shared head is added to its tokens; else it is dropped.
    """
    out: Tensor | None = None
    borrowed: list[tuple[Tensor, Tensor]] = []
    for group, x in zip(layout.groups, padded, strict=True):
        picked = x if group.target is None else x.index_select(0, group.target)
        if group.source is None:
            return picked
        source = group.source
        if group.own is not None:
            borrowed += [(source[part], picked[part]) for part in group.borrowed]
            source, picked = source[group.own], picked[group.own]
        # Every token is one sequence's own, so nothing of the empty tensor is left unwritten.
        out = picked.new_empty(layout.tokens, *x.shape[1:]) if out is None else out
        out.index_copy_(0, source, picked)
    if out is None:
        raise ValueError("a pass needs at least one token")
    if heads:
        for source, picked in borrowed:
            # No token is twice in one of them, so that each sum has the same order every time.
            out.index_add_(0, source, picked)
    return out


class Pad(torch.autograd.Function):
    """`pad_groups`; its gradient is `unpad_groups`.

    Autograd's own gradient of an index_select is an index_add, which adds atomically on CUDA and so in any order.
    Here the copies of a shared head are added one after the other, so a pass repeats bit by bit.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> tuple[Tensor, ...]:
        ctx.layout = layout
        # A view, because autograd wants no input among the outputs, which a group of the whole stream would be.
        return tuple(p.view_as(p) for p in pad_groups(x, layout))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return unpad_groups(grads, ctx.layout, heads=True), None


class Unpad(torch.autograd.Function):
    """`unpad_groups`; its gradient is `pad_groups`."""

    @staticmethod
    def forward(ctx: Any, layout: PaddedLayout, *padded: Tensor) -> Tensor:
        ctx.layout = layout
        out = unpad_groups(padded, layout)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return (None, *pad_groups(grad, ctx.layout, heads=False))
