"""A layer of the Llama family as training runs it on a CPU: norms, rotation, attention and SwiGLU in C.

`transformers` writes a norm, a rotation and SwiGLU in operations of torch, each of which passes over memory, and has
autograd keep what comes out of them. Here each is one pass, of which autograd keeps the input: a seventh less in all.
Attention reads sequences where they lie in the stream, see `attention.py`.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tinsmith.engine.model.attention import attention, refuse_options
from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.model.lean.decoder_layer import DecoderLayer
from tinsmith.engine.model.lean.lean_decoder import LeanDecoder
from tinsmith.engine.model.native.training.attention import packed_attention
from tinsmith.engine.model.native.training.layer_functions import AddNorm, Swiglu, Turn, run_here


class FusedLayer(GradientCheckpointingLayer):
    """In the place of a decoder layer of `transformers`, with its modules and their names.

    Args:
        layer: whose linear layers carry adapters by now.
        read: what the layer consists of.
    """

    def __init__(self, layer: Any, read: DecoderLayer) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self._heads, self._key_heads, self._scaling = read.heads, read.key_heads, read.scaling
        norms = read.head_norms
        self._epsilon = 0.0 if norms is None else float(norms.query.variance_epsilon)
        self._has_norms, self._is_dense = norms is not None, read.gate_up is not None

    def forward(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **options: Any) -> Tensor:
        """[1, T, H] to [1, T, H], with angles [1, T, D] of the tokens and whatever else a layer is handed."""
        x, normed = _add_norm(hidden_states[0], None, self.input_layernorm)
        cos, sin = (angle[0].contiguous() for angle in position_embeddings)
        mixed = self._attend(normed, cos, sin, options)
        x, normed = _add_norm(x, mixed, self.post_attention_layernorm)
        return (x + self._mix(normed))[None]

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor, options: dict[str, Any]) -> Tensor:
        own = self.self_attn
        query, key, value = (
            layer(x).view(x.shape[0], heads, -1)
            for layer, heads in (
                (own.q_proj, self._heads),
                (own.k_proj, self._key_heads),
                (own.v_proj, self._key_heads),
            )
        )
        weights = (own.q_norm.weight, own.k_norm.weight) if self._has_norms else (None, None)
        query, key = (
            cast(Tensor, Turn.apply(heads, weight, self._epsilon, cos, sin))
            for heads, weight in zip((query, key), weights, strict=True)
        )
        window = getattr(own, "sliding_window", None)
        context: ForwardContext = options["forward_context"]
        if context.paged is None:
            refuse_options(own, options.get("attention_mask"), 0.0, {**options, "sliding_window": window})
            mixed = packed_attention(query, key, value, context.lengths, context.heads, self._scaling)
        else:
            # As `transformers` hands them to attention, [1, heads, T, D].
            query, key, value = (heads.transpose(0, 1)[None] for heads in (query, key, value))
            mixed, _ = attention(own, query, key, value, scaling=self._scaling, sliding_window=window, **options)
        return own.o_proj(mixed.reshape(x.shape[0], -1))

    def _mix(self, x: Tensor) -> Tensor:
        if not self._is_dense:
            return self.mlp(x[None])[0]
        return self.mlp.down_proj(Swiglu.apply(self.mlp.gate_proj(x), self.mlp.up_proj(x)))


def _add_norm(x: Tensor, delta: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    return AddNorm.apply(x, delta, norm.weight, norm.variance_epsilon)  # pyright: ignore[reportReturnType]


def fuse_layers(decoder: Any, lean: LeanDecoder) -> None:
    """Replace a decoder's layers, if there are functions for them, see `run_here`.

    Args:
        decoder: of `transformers`, whose linear layers carry adapters by now.
        lean: the same decoder, whose numbers agree with it.
    """
    if not run_here(lean.embedding):
        return
    if any(layer.gate_up is not None and not layer.has_swiglu for layer in lean.layers):
        return
    decoder.layers = nn.ModuleList(
        FusedLayer(layer, read) for layer, read in zip(decoder.layers, lean.layers, strict=True)
    )
