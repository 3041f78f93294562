"""Causal attention over a packed stream, registered with `transformers` under the name `tinsmith`.

No mask is ever built: `transformers` makes none for an attention name that its mask registry does not know, and
causal attention over right-padded groups is exact, because no real query sees a key behind it.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.model.padded import LengthGroup, Pad, PaddedLayout, Unpad
from tinsmith.engine.model.tiles.attention import tiled_attention

NAME = "tinsmith"
# Keyword arguments that change the mathematics of attention when they are set. Unknown ones pass: `transformers` hands
# every layer much that does not concern attention, and the probe at loading compares what comes out.
_UNSUPPORTED = ("sliding_window", "s_aux", "softcap", "position_bias", "sinks", "head_mask", "cache_position_bias")


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PaddedLayout, scaling: float, *, tiled: bool = False
) -> Tensor:
    """Causal attention of every sequence of a packed stream to itself.

    Args:
        query: [T, query heads, head dim].
        key: [T, key heads, head dim]; the query heads are a multiple of the key heads.
        value: [T, key heads, head dim].
        layout: of the stream's sequences.
        scaling: factor on query·key.
        tiled: whether a query's sums keep one order in passes of every kind, see `tiled_attention`.

    Returns:
        [T, query heads, head dim].
    """
    attend = tiled_attention if tiled else _group_attention
    grouped = zip(layout.groups, *(Pad.apply(x, layout) for x in (query, key, value)), strict=True)  # pyright: ignore
    mixed = [attend(group, q, k, v, scaling) for group, q, k, v in grouped]
    return Unpad.apply(layout, *mixed)  # pyright: ignore[reportReturnType]


def _group_attention(group: LengthGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    # [count * width, heads, head dim] to [count, heads, width, head dim], the order of axes that the kernels take.
    q, k, v = (x.view(group.count, group.width, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
    # Only where heads are shared, because not every kernel of PyTorch knows `enable_gqa`.
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
        options: whatever else a model hands on; refused where it would change the mathematics.

    Returns:
        [1, T, query heads, head dim] and no attention weights.

    Raises:
        NotImplementedError: the model asks for something else than plain causal attention.
    """
    refuse_options(module, attention_mask, dropout, options)
    if forward_context is None:
        raise NotImplementedError(f"{type(module).__name__} does not hand its keyword arguments on to attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The batch axis is 1: a pass is one stream. [1, heads, T, head dim] to [T, heads, head dim].
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if forward_context.paged is not None:
        layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
        out = forward_context.paged.attend(layer, q, k, v, scale, forward_context)
    else:
        tiled = forward_context.products.tile > 1
        out = packed_attention(q, k, v, forward_context.layout, scale, tiled=tiled)
    return out.unsqueeze(0), None


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
