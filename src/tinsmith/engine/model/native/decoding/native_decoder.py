"""The sampler's decoding step in C, and that of short prompts: what `lean_decoder` computes, on a CPU, in one call.

Of a step of a small model on a CPU, torch's operations spend more on starting, on copying weights into an order that
suits a library's kernel and on passing over memory between them than on multiplying. Here a step is one parallel
region over weights where they lie, keys and values are read in their blocks, and every adapter's product is added
while its output is still near. See `step.h` for the pass itself. Models in float32 run it on any processor, those in
bfloat16 where the processor multiplies tiles of it: others widen each weight first, and torch's operations do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_void_p

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.model.context import ForwardContext, Mode
from tinsmith.engine.model.lean.decoder_layer import DecoderLayer
from tinsmith.engine.model.lean.fused_linear import FusedLinear
from tinsmith.engine.model.lean.lean_decoder import LeanDecoder
from tinsmith.engine.model.lean.pass_adapters import adapters_key
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.decoding.binding import Binding, Bound
from tinsmith.engine.model.native.decoding.structures import Layer, Model, Product, declare
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.threads import THREADS

# Prompts' tokens of a pass beyond which torch's operations are faster: weights are read once for all of them, and
# attention, which here reads a sequence's keys again for each of its tokens, shares what it reads.
_MOST_PROMPT_TOKENS = 128
# Keys that they may read in all, as if each read those of the longest.
_MOST_PROMPT_READS = 2**15


class NativeDecoder:
    """The step of one model.

    Args:
        library: see `compiler.library`.
        lean: the same decoder, with dense MLPs.
        head: the output projection.

    Attributes:
        head_dim: width of one head.
    """

    def __init__(self, library: ctypes.CDLL, lean: LeanDecoder, head: FusedLinear) -> None:
        declare(library)
        self._dtype = lean.embedding.dtype
        self._library = library
        self._kind = "_bfloat16" if self._dtype == torch.bfloat16 else ""
        self._most_tokens = int(library.most_tokens())
        layers = lean.layers
        self._lean, self._head_weights = lean, head  # what the structures point to
        self.head_dim = layers[0].output.weight.shape[1] // layers[0].heads
        products = [p for layer in layers for p in _products(layer)] + [head]
        self._layers = (Layer * len(layers))(*map(_layer, layers))
        self._head = _product(head)
        self._model = Model(
            layers=len(layers),
            hidden=lean.embedding.shape[1],
            heads=layers[0].heads,
            key_heads=layers[0].key_heads,
            head_dim=self.head_dim,
            intermediate=_products(layers[0])[-1].weight.shape[1],
            layer=self._layers,
            norm=lean.norm.module.weight.data_ptr(),
            epsilon=lean.norm.module.variance_epsilon,
        )
        self._binding = Binding(self._model, products, head.weight.shape[0], self._dtype, int(library.lanes()))

    def takes(self, context: ForwardContext) -> bool:
        """Whether a pass is one that it computes: over a cache, a decoding step or a few tokens of prompts."""
        if context.mode is Mode.PACKED or context.paged is None or context.block_tables is None:
            return False
        storage = context.paged.storage
        if storage is None:
            return False
        tokens = context.positions.shape[0]
        if context.mode is Mode.DECODE:
            return tokens <= self._most_tokens
        reads = tokens * context.block_tables.shape[1] * storage.block_size
        return tokens <= _MOST_PROMPT_TOKENS and reads <= _MOST_PROMPT_READS

    def hidden(self, ids: Tensor, context: ForwardContext) -> Tensor:
        """Run the layers and the final norm, and leave the new keys and values in the cache.

        Args:
            ids: int64 [T], the new tokens of each sequence.
            context: of this pass; what its workspace holds is used, and left to the next pass.

        Returns:
            last hidden states, [T, H], the model's dtype.
        """
        assert context.paged is not None
        assert context.slot_mapping is not None
        assert context.block_tables is not None
        storage, bound = context.paged.storage, self._bound(context)
        assert storage is not None
        x = F.embedding(ids, self._lean.embedding)
        angles = self._lean.rotary(x, context.positions[None])
        for room, angle in zip(bound.angles, angles, strict=True):
            room[:, : ids.shape[0]].copy_(angle[0].t())
        keys, values = _addresses(storage.keys), _addresses(storage.values)
        tables, cells = context.block_tables.contiguous(), context.slot_mapping
        if tables.shape[0] < ids.shape[0]:
            # A sequence's tokens all stand in the cache before the first of them looks for keys there, so that each is
            # computed as if it were the newest of a sequence of its own.
            tables = tables.repeat_interleave(torch.tensor(context.lengths), 0)
        call = bound.call
        # Bits do not follow the number of threads here, so it may follow the load.
        call.threads = THREADS.free
        call.rows, call.cells, call.tables = x.data_ptr(), cells.data_ptr(), tables.data_ptr()
        call.positions, call.blocks, call.block_size = context.positions.data_ptr(), tables.shape[1], storage.block_size
        call.keys, call.values = ctypes.addressof(keys), ctypes.addressof(values)
        getattr(self._library, f"decode{self._kind}")(self._model, call)
        return x

    def projects(self, rows: int) -> bool:
        """Whether so many rows' logits are sooner computed here than by products that first put weights in order."""
        return rows <= _MOST_PROMPT_TOKENS

    def logits(self, hidden: Tensor, context: ForwardContext) -> Tensor:
        """Return the logits of hidden states.

        Args:
            hidden: [n, H], the model's dtype.
            context: of as many positions, with the rows' adapters; what its workspace holds is used.

        Returns:
            float32 [n, V], valid until the next pass with this workspace.
        """
        bound, hidden = self._bound(context), hidden.contiguous()
        bound.call.threads, bound.call.rows = THREADS.free, hidden.data_ptr()
        getattr(self._library, f"project{self._kind}")(self._head, bound.call, bound.logits.data_ptr())
        return bound.logits

    def _bound(self, context: ForwardContext) -> Bound:
        tokens = context.positions.shape[0]
        if context.workspace is None:
            context.workspace = Workspace()
        return context.workspace.bound(
            (tokens, *adapters_key(context)), lambda: self._binding.bind(tokens, context.spans)
        )


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _products(layer: DecoderLayer) -> tuple[FusedLinear, FusedLinear, FusedLinear, FusedLinear]:
    """In the order of `pass.h`."""
    assert layer.gate_up is not None
    assert layer.down is not None
    return layer.qkv, layer.output, layer.gate_up, layer.down


def _product(linear: FusedLinear) -> Product:
    ends = np.cumsum(linear.widths).tolist()
    return Product(
        weight=linear.weight.data_ptr(),
        bias=None if linear.bias is None else linear.bias.data_ptr(),
        inputs=linear.weight.shape[1],
        outputs=linear.weight.shape[0],
        targets=len(ends),
        ends=(ctypes.c_int64 * 3)(*ends),
    )


def _layer(layer: DecoderLayer) -> Layer:
    qkv, output, gate_up, down = map(_product, _products(layer))
    heads = layer.head_norms
    return Layer(
        qkv=qkv,
        output=output,
        gate_up=gate_up,
        down=down,
        norm=layer.norm.module.weight.data_ptr(),
        mlp_norm=layer.mlp_norm.module.weight.data_ptr(),
        query_norm=None if heads is None else heads.query.weight.data_ptr(),
        key_norm=None if heads is None else heads.key.weight.data_ptr(),
        epsilon=layer.norm.module.variance_epsilon,
        mlp_epsilon=layer.mlp_norm.module.variance_epsilon,
        head_epsilon=0.0 if heads is None else heads.query.variance_epsilon,
        scaling=layer.scaling,
    )


def native_decoder(lean: LeanDecoder, head: nn.Linear, head_name: str) -> NativeDecoder | None:
    """Return the step in C of a decoder; None where its parts or this machine are not made for it.

    Args:
        lean: the decoder.
        head: the output projection, of the same dtype and on the same device as all weights.
        head_name: of it in the model.
    """
    dtype = lean.embedding.dtype
    if head.weight.device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return None
    if not all(layer.has_swiglu for layer in lean.layers):
        return None
    built = library()
    if built is None or (dtype == torch.bfloat16 and not built.offers_bfloat16()):
        return None
    decoder = NativeDecoder(built, lean, FusedLinear.of([(head_name, head)]))
    # Attention in bfloat16 is written for heads of whole registers.
    fits = dtype == torch.float32 or decoder.head_dim % int(built.lanes()) == 0
    return decoder if fits and decoder.head_dim <= int(built.widest_head()) else None
