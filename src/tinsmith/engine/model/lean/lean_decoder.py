"""A pass of the sampler through a decoder of the Llama family, written out.

A token that is decoded costs a layer of a small model less than a millisecond, of which `transformers`' modules take
half: five operations for a norm, ten for a rotation, a product for each weight although three of them have one input,
and a call through hooks for each. Here products of one input are one product and nothing waits for a backward pass.
The numbers are the modules' up to rounding, which the probe makes sure of when a model is loaded. Training goes through
the modules (in float32 on a CPU through `native/fused_layer.py`), and so do tiles, layers that are split over ranks,
architectures that are not listed, and models of those that are whose modules turn out to be built or to compute
otherwise: that is slower and just as right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.model.lean.decoder_layer import DecoderLayer, read_layer
from tinsmith.engine.model.lean.lean_norms import Norm
from tinsmith.engine.model.lean.pass_adapters import PassAdapters, adapters_key
from tinsmith.engine.model.workspace import Workspace

log = logging.getLogger(__name__)

# Decoder layers with the same arithmetic: norm, attention, residual, norm, MLP, residual. Not by their parts, which
# others have as well: Granite scales its residuals, Gemma its embeddings, Phi rotates a part of each head.
_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Qwen3Moe")}

# For so many tokens at most the products of an MLP are computed by columns in bfloat16.
_FEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class _Angles:
    """Rotations of a pass's positions, [T, 1, D] and halves of it."""

    cos: Tensor
    minus_sin: Tensor  # for the first half of a head, which takes the second one negated
    sin: Tensor


class _BoundLayer:
    """A layer's part of passes of one shape: tensors to write to, views of them, and products that write to them."""

    def __init__(
        self, index: int, layer: DecoderLayer, tokens: int, adapters: PassAdapters, workspace: Workspace
    ) -> None:
        self._index, self._layer = index, layer
        self._qkv = layer.qkv.bind(tokens, adapters, workspace)
        self._output = layer.output.bind(tokens, adapters, workspace)
        turned = layer.heads + layer.key_heads
        heads = self._qkv.y.view(tokens, turned + layer.key_heads, -1)
        self._raw, self._value = heads[:, :turned], heads[:, turned:]
        shape, y = (tokens, turned, heads.shape[-1]), self._qkv.y
        self._even = self._raw if layer.head_norms is None else workspace.room("heads after their norms", shape, y)
        self._turned, self._crossed = (workspace.room(use, shape, y) for use in ("turned heads", "crossed halves"))
        half = heads.shape[-1] // 2
        # Each half, and where its product with the sine goes: the other half's place.
        self._halves = self._even[..., half:], self._even[..., :half]
        self._places = self._crossed[..., :half], self._crossed[..., half:]
        self._query, self._key = self._turned.split([layer.heads, layer.key_heads], 1)
        self._gate_up = self._down = None
        if layer.gate_up is not None and layer.down is not None:
            # Not those of attention, whose heads lie by tokens.
            by_columns = tokens <= _FEW_TOKENS and layer.gate_up.gains_by_columns and layer.down.gains_by_columns
            self._gate_up = layer.gate_up.bind(tokens, adapters, workspace, by_columns)
            self._down = layer.down.bind(tokens, adapters, workspace, by_columns)
            self._gate, self._up = self._gate_up.y.chunk(2, 1)

    def __call__(self, x: Tensor, angles: _Angles, context: ForwardContext) -> None:
        """Add what attention and MLP make of x [T, H] to it, in place."""
        layer = self._layer
        x += self._attend(layer.norm(x), angles, context)
        x += self._mix(layer.mlp_norm(x))

    def _attend(self, x: Tensor, angles: _Angles, context: ForwardContext) -> Tensor:
        assert context.paged is not None
        self._qkv(x)
        if self._layer.head_norms is not None:
            self._layer.head_norms(self._raw, self._even)
        # Rotary embedding (Su et al. 2021, arXiv:2104.09864, section 3.4.2) of queries and keys at once.
        torch.mul(self._even, angles.cos, out=self._turned)
        torch.mul(self._halves[0], angles.minus_sin, out=self._places[0])
        torch.mul(self._halves[1], angles.sin, out=self._places[1])
        self._turned += self._crossed
        scaling = self._layer.scaling
        mixed = context.paged.attend(self._index, self._query, self._key, self._value, scaling, context)
        return self._output(mixed.reshape(x.shape[0], -1))

    def _mix(self, x: Tensor) -> Tensor:
        if self._gate_up is None or self._down is None:
            return self._layer.mlp(x[None])[0]
        self._gate_up(x)
        # By columns the sum with what it is added to would take longer than a copy.
        return self._down(self._layer.mlp.act_fn(self._gate).mul_(self._up)).contiguous()


class LeanDecoder:
    """The decoder, from ids to the last hidden states.

    Args:
        decoder: of `transformers`, whose linear layers are not swapped yet; see `lean_decoder`.
        names: of its modules in the model.

    Attributes:
        embedding: of the ids, [V, H].
        rotary: from states and positions [1, T] to cosines and sines, [1, T, D] each.
        norm: the final one.
        layers: in their order.
    """

    def __init__(self, decoder: Any, names: dict[nn.Module, str]) -> None:
        self.embedding: Tensor = decoder.embed_tokens.weight
        self.rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = decoder.rotary_emb
        self.norm = Norm.of(decoder.norm)
        self.layers = [read_layer(layer, names) for layer in decoder.layers]

    def hidden(self, ids: Tensor, context: ForwardContext) -> Tensor:
        """Run over one stream; its attention is `context.paged`.

        Args:
            ids: int64 [T].
            context: of this pass; what its workspace holds is used, and left to the next pass.

        Returns:
            last hidden states after the final norm, [T, H], compute dtype.
        """
        workspace = context.workspace or Workspace()
        layers = workspace.bound(
            (ids.shape[0], *adapters_key(context)), lambda: self._bind(ids.shape[0], context, workspace)
        )
        x = F.embedding(ids, self.embedding)
        cos, sin = (angle[0, :, None] for angle in self.rotary(x, context.positions[None]))  # [T, 1, D]
        half = sin.shape[-1] // 2
        angles = _Angles(cos, -sin[..., :half], sin[..., half:])
        for layer in layers:
            layer(x, angles, context)
        return self.norm(x)

    def _bind(self, tokens: int, context: ForwardContext, workspace: Workspace) -> list[_BoundLayer]:
        adapters = PassAdapters(context.spans, self.embedding.dtype, self.embedding.device)
        return [_BoundLayer(i, layer, tokens, adapters, workspace) for i, layer in enumerate(self.layers)]


def lean_decoder(model: Any) -> LeanDecoder | None:
    """Return the written-out decoder of a model whose linear layers are not swapped yet.

    None where it has none, or where its layers are not built as those of their family are, which is logged.
    """
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", ())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers or any(type(layer).__name__ not in _LAYERS for layer in layers):
        return None
    # An odd width would leave gaps between the factors of an adapter, see `Pool.factors`.
    if any(isinstance(linear.weight, DTensor) or linear.in_features % 2 for linear in linears):
        return None
    try:
        return LeanDecoder(decoder, {module: name for name, module in model.named_modules()})
    # Modules are of whatever version of `transformers` there is: what they lack can show as any error.
    except Exception as error:
        say_modules_run(type(model).__name__, f"{type(error).__name__}: {error}")
        return None


def say_modules_run(what: str, why: str) -> None:
    """Log that the sampler runs the modules of a model that was expected to have a written-out decoder."""
    log.warning("%s: the sampler runs its modules, which is slower than the written-out layers (%s)", what, why)
