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


class Shared(NamedTuple):
    """Copies of tokens of a shared head, no token twice: the cells that they fill and their places in the stream."""

    cells: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Sequences of similar length that attention computes as one right-padded batch of `count` * `width` cells.

    All indices are int64.

    Attributes:
        members: indices of its sequences in the stream, rising; empty ones belong to no group.
        width: tokens that each is padded to, by `width_of`.
        fill: place in the stream of what each cell holds, any place where it holds nothing; None where the cells are
            the whole stream in order.
        padding: cells that hold nothing; None where all hold something.
        foreign: cells that hold nothing or a token of another sequence's; None where there are no shared heads, and
            then they are those of `padding`.
        own: cells of the other tokens, in the stream's order; None where that is all cells in order.
        places: where those stand in the stream; None where they are all of it.
        borrowed: the copies of shared heads.
    """

    members: tuple[int, ...]
    width: int
    fill: Tensor | None
    padding: Tensor | None
    foreign: Tensor | None
    own: Tensor | None
    places: Tensor | None
    borrowed: tuple[Shared, ...] = ()

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
        alone = len(by_width) == 1
        turns = _turns(heads) if shared else []
        groups = (_group(members, width, lengths, heads, turns, alone, device) for width, members in by_width.items())
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
    alone: bool,
    device: torch.device,
) -> LengthGroup:
    # The places are worked out on the CPU and moved once: on an accelerator each small step would be a launch.
    starts = torch.tensor((0, *lengths)).cumsum(0)
    index = torch.tensor(members)  # [S]
    head = torch.tensor([heads[i].tokens for i in members])[:, None]
    lender = torch.tensor([heads[i].lender for i in members])
    offsets = torch.arange(width)[None]  # [1, width]
    behind = offsets - head  # [S, width]
    borrowed = behind < 0
    padding = behind >= torch.tensor(lengths)[index][:, None]
    # A head lies where its lender begins.
    fill = torch.where(borrowed, starts[lender][:, None] + offsets, starts[index][:, None] + behind)
    fill = fill.masked_fill_(padding, 0).flatten()
    own = _cells(~(borrowed | padding))
    padded, shared = bool(padding.any()), bool(borrowed.any())
    parts: list[Shared] = []
    if shared:
        turn = torch.tensor([turns[i] for i in members])[:, None]
        for k in sorted({turns[i] for i in members} - {-1}):
            cells = _cells(borrowed & (turn == k))
            parts.append(Shared(to_device(cells, device), to_device(fill[cells], device)))
    # Members rise, and so do the places of what is their own.
    return LengthGroup(
        tuple(members),
        width,
        to_device(fill, device) if padded or shared or not alone else None,
        to_device(_cells(padding), device) if padded else None,
        to_device(_cells(borrowed | padding), device) if shared else None,
        to_device(own, device) if padded or shared else None,
        None if alone else to_device(fill[own], device),
        tuple(parts),
    )


def _cells(marked: Tensor) -> Tensor:
    return marked.flatten().nonzero()[:, 0]


def pad_groups(x: Tensor, layout: PaddedLayout, *, heads: bool = True) -> tuple[Tensor, ...]:
    """Split a stream [T, ...] into its groups, each [count * width, ...] with zeros for padding.

    Args:
        x: the stream.
        layout: its layout.
        heads: whether sequences get the heads that they share; else zeros stand there.
    """
    padded: list[Tensor] = []
    for group in layout.groups:
        cells = x if group.fill is None else x.index_select(0, group.fill)
        blank = group.padding if heads or group.foreign is None else group.foreign
        if blank is not None:
            # Zeros, not whatever stood there: a NaN in a padded value would reach real tokens as 0 * NaN.
            cells.index_fill_(0, blank, 0)
        padded.append(cells)
    return tuple(padded)


def unpad_groups(padded: Sequence[Tensor], layout: PaddedLayout, *, heads: bool = False) -> Tensor:
    """Inverse of `pad_groups`, padding dropped.

    Args:
        padded: the groups.
        layout: of the stream.
        heads: whether what stands at the copies of a shared head is added to its tokens; else it is dropped.
    """
    out: Tensor | None = None
    for group, x in zip(layout.groups, padded, strict=True):
        own = x if group.own is None else x.index_select(0, group.own)
        if group.places is None:
            out = own
        else:
            # Every token is one sequence's own, so nothing of the empty tensor is left unwritten.
            out = own.new_empty(layout.tokens, *x.shape[1:]) if out is None else out
            out.index_copy_(0, group.places, own)
    if out is None:
        raise ValueError("a pass needs at least one token")
    if heads:
        for group, x in zip(layout.groups, padded, strict=True):
            for cells, places in group.borrowed:
                # No token is twice in one of them, so that each sum has the same order every time.
                out.index_add_(0, places, x.index_select(0, cells))
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
