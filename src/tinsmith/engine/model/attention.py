"""Causal attention over a packed stream, registered with `transformers` under the name `tinsmith`.

No mask is ever built: `transformers` makes none for an attention name that its mask registry does not know, and
causal attention over right-padded groups is exact, because no real query sees a key behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tinsmith.engine.model.context import ForwardContext

NAME = "tinsmith"

# A group is closed when its shortest sequence would be padded by more than this share of its longest.
_MAX_PADDING = 0.25
# ... unless the group is still this small: a kernel launch costs about as much as so many padded tokens.
_FREE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Sequences of similar length that attention computes as one right-padded batch.

    Attributes:
        members: indices of its sequences in the stream, rising; empty ones belong to no group.
        width: tokens of the longest.
        source: place of each token in the stream, int64 [tokens]; None where the group is the whole stream in order.
        target: place of each token in the padded batch, int64 [tokens]; None where nothing is padded.
    """

    members: tuple[int, ...]
    width: int
    source: Tensor | None
    target: Tensor | None

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
    def of(cls, lengths: Sequence[int], device: torch.device) -> PaddedLayout:
        """Group sequences of similar length; at most a quarter of a group, a few tokens aside, is padding."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        starts = torch.tensor((0, *lengths)).cumsum(0).tolist()
        members: list[list[int]] = []
        for i in order:
            if lengths[i] == 0:
                continue
            if members and _fits(lengths[members[-1][0]], lengths[i], len(members[-1])):
                members[-1].append(i)
            else:
                members.append([i])
        whole = len(members) == 1
        return cls(tuple(_group(sorted(m), lengths, starts, whole, device) for m in members), sum(lengths))


def _fits(width: int, length: int, count: int) -> bool:
    return width - length <= _MAX_PADDING * width or (count + 1) * width <= _FREE_TOKENS


def _group(
    members: list[int], lengths: Sequence[int], starts: Sequence[int], whole: bool, device: torch.device
) -> LengthGroup:
    sizes = torch.tensor([lengths[i] for i in members])
    width = int(sizes.max())
    offsets = torch.arange(int(sizes.sum())) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    source = torch.repeat_interleave(torch.tensor([starts[i] for i in members]), sizes) + offsets
    target = torch.repeat_interleave(torch.arange(len(members)) * width, sizes) + offsets
    return LengthGroup(
        tuple(members),
        width,
        None if whole else source.to(device),
        None if bool((sizes == width).all()) else target.to(device),
    )


def pad_groups(x: Tensor, layout: PaddedLayout) -> tuple[Tensor, ...]:
    """Split a stream [T, ...] into its groups, each [count * width, ...] with zeros for padding."""
    padded: list[Tensor] = []
    for group in layout.groups:
        picked = x if group.source is None else x.index_select(0, group.source)
        if group.target is not None:
            blank = picked.new_zeros(group.count * group.width, *x.shape[1:])
            picked = blank.index_copy_(0, group.target, picked)
        padded.append(picked)
    return tuple(padded)


def unpad_groups(padded: Sequence[Tensor], layout: PaddedLayout) -> Tensor:
    """Inverse of `pad_groups`, padding dropped."""
    out: Tensor | None = None
    for group, x in zip(layout.groups, padded, strict=True):
        picked = x if group.target is None else x.index_select(0, group.target)
        if group.source is None:
            return picked
        out = picked.new_empty(layout.tokens, *x.shape[1:]) if out is None else out
        out.index_copy_(0, group.source, picked)
    if out is None:
        raise ValueError("a pass needs at least one token")
    return out


class _Pad(torch.autograd.Function):
    """`pad_groups`; its gradient is `unpad_groups`. Neither way needs an atomic addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> tuple[Tensor, ...]:
        ctx.layout = layout
        return tuple(p.view_as(p) for p in pad_groups(x, layout))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return unpad_groups(grads, ctx.layout), None


class _Unpad(torch.autograd.Function):
    """`unpad_groups`; its gradient is `pad_groups`."""

    @staticmethod
    def forward(ctx: Any, layout: PaddedLayout, *padded: Tensor) -> Tensor:
        ctx.layout = layout
        out = unpad_groups(padded, layout)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return (None, *pad_groups(grad, ctx.layout))


def packed_attention(query: Tensor, key: Tensor, value: Tensor, layout: PaddedLayout, scaling: float) -> Tensor:
    """Causal attention of every sequence of a packed stream to itself.

    Args:
        query: [T, query heads, head dim].
        key: [T, key heads, head dim]; the query heads are a multiple of the key heads.
        value: [T, key heads, head dim].
        layout: of the stream's sequences.
        scaling: factor on query·key.

    Returns:
        [T, query heads, head dim].
    """
    grouped = zip(layout.groups, *(_Pad.apply(x, layout) for x in (query, key, value)), strict=True)  # pyright: ignore
    mixed = [_group_attention(group, q, k, v, scaling) for group, q, k, v in grouped]
    return _Unpad.apply(layout, *mixed)  # pyright: ignore[reportReturnType]


def _group_attention(group: LengthGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    q, k, v = (x.view(group.count, group.width, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2).reshape(query.shape)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    forward_context: ForwardContext | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that `transformers` calls in every attention layer.

    Args:
        module: the attention layer; its `layer_idx` finds its part of the cache.
        query: [1, query heads, T, head dim]; key and value likewise with their own heads.
        attention_mask: None; a mask would mean that the model mixes tokens in another way than causally.
        scaling: factor on query·key; None means head dim ** -0.5.
        dropout: 0; the base never trains.
        forward_context: the pass.
        options: anything else that a model asks of its attention; refused unless it is off.

    Returns:
        [1, T, query heads, head dim] and no attention weights.

    Raises:
        NotImplementedError: the model asks for something else than plain causal attention.
    """
    refuse_options(module, attention_mask, dropout, options)
    if forward_context is None:
        raise NotImplementedError(f"{type(module).__name__} does not hand its keyword arguments on to attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if forward_context.paged is not None:
        layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
        out = forward_context.paged.attend(layer, q, k, v, scale, forward_context)
    else:
        out = packed_attention(q, k, v, layout_of(forward_context), scale)
    return out.unsqueeze(0), None


def layout_of(context: ForwardContext) -> PaddedLayout:
    """Return the padded layout of a pass, made once and kept for its other layers."""
    if context.layout is None:
        context.layout = PaddedLayout.of(context.lengths, context.positions.device)
    return context.layout


# Keyword arguments that change the mathematics of attention when they are set.
_UNSUPPORTED = ("sliding_window", "s_aux", "softcap", "position_bias", "sinks", "head_mask", "cache_position_bias")


def refuse_options(module: nn.Module, mask: Tensor | None, dropout: float, options: dict[str, Any]) -> None:
    """Raise NotImplementedError where a model asks for more than plain causal attention."""
    asked = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if mask is not None:
        asked.append("attention_mask")
    if dropout:
        asked.append("dropout")
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        asked.append("is_causal=False")
    if asked:
        raise NotImplementedError(f"{type(module).__name__} asks its attention for {', '.join(asked)}")


AttentionInterface.register(NAME, attention)
