"""The sampler's decoding step in C: what `lean_decoder` computes, on a CPU, in one call.

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
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.adapters.layouts import ALPHA, Layout
from tinsmith.engine.model.context import AdapterSpan, ForwardContext, Mode
from tinsmith.engine.model.lean.decoder_layer import DecoderLayer
from tinsmith.engine.model.lean.fused_linear import FusedLinear
from tinsmith.engine.model.lean.lean_decoder import LeanDecoder
from tinsmith.engine.model.lean.pass_adapters import adapters_key
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.decoding.structures import FACTORS, SPAN, Layer, Model, Pass, Product, declare
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.threads import THREADS


@dataclass(frozen=True, slots=True)
class _Bound:
    """What steps over so many tokens with the same adapters have in common: the structure and what it points to."""

    call: Pass
    angles: tuple[Tensor, Tensor]  # cosines and sines, [D, stride]
    logits: Tensor  # [T, V]
    held: tuple[Any, ...]


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
        # Two features of a token in one word, see `bfloat16.h`.
        self._in_pairs = self._dtype == torch.bfloat16
        self._library = library
        self._kind = "_bfloat16" if self._in_pairs else ""
        self._lanes = int(library.lanes())
        self._most_tokens = int(library.most_tokens())
        layers = lean.layers
        self._lean, self._head_weights = lean, head  # what the structures point to
        self.head_dim = layers[0].output.weight.shape[1] // layers[0].heads
        self._products = [p for layer in layers for p in _products(layer)] + [head]
        self._widest = max(product.weight.shape[1] for product in self._products)
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
        # Where a layout has A and B of each product, in numbers from the adapter's first.
        self._places: WeakKeyDictionary[Layout, np.ndarray[Any, Any]] = WeakKeyDictionary()

    def takes(self, context: ForwardContext) -> bool:
        """Whether a pass is one that it computes: a decoding step over a cache."""
        if context.mode is not Mode.DECODE or len(context.lengths) > self._most_tokens:
            return False
        return context.paged is not None and context.paged.storage is not None

    def hidden(self, ids: Tensor, context: ForwardContext) -> Tensor:
        """Run the layers and the final norm, and leave the new keys and values in the cache.

        Args:
            ids: int64 [T], the new token of each sequence.
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
        call = bound.call
        # Bits do not follow the number of threads here, so it may follow the load.
        call.threads = THREADS.free
        call.rows, call.cells, call.tables = x.data_ptr(), cells.data_ptr(), tables.data_ptr()
        call.positions, call.blocks, call.block_size = context.positions.data_ptr(), tables.shape[1], storage.block_size
        call.keys, call.values = ctypes.addressof(keys), ctypes.addressof(values)
        getattr(self._library, f"decode{self._kind}")(self._model, call)
        return x

    def logits(self, context: ForwardContext) -> Tensor:
        """Return the logits behind the tokens of a pass that `hidden` has just computed.

        Args:
            context: of that pass.

        Returns:
            float32 [T, V], valid until the next pass.
        """
        bound = self._bound(context)
        getattr(self._library, f"project{self._kind}")(self._head, bound.call, bound.logits.data_ptr())
        return bound.logits

    def _bound(self, context: ForwardContext) -> _Bound:
        tokens = len(context.lengths)
        if context.workspace is None:
            context.workspace = Workspace()
        return context.workspace.bound((tokens, *adapters_key(context)), lambda: self._bind(tokens, context.spans))

    def _bind(self, tokens: int, spans: Sequence[AdapterSpan]) -> _Bound:
        model, lanes = self._model, self._lanes
        vectors = -(-tokens // lanes)
        stride = vectors * lanes
        inner = model.heads * self.head_dim
        floats = {
            "cos": (self.head_dim, stride),
            "sin": (self.head_dim, stride),
            "x": (model.hidden, stride),
            "qkv": (inner + 2 * model.key_heads * self.head_dim, stride),
            "gate_up": (2 * model.intermediate, stride),
        }
        own_dtype = {
            "query": (tokens, inner),
            "mixed": (tokens, inner),
            "mixed_columns": (inner, stride),
            "normed": (model.hidden, stride),
        }
        if self._in_pairs:
            own_dtype["gated"] = (model.intermediate, stride)
        # Zeros: the columns behind the last token are computed, too, and never read.
        made = {name: torch.zeros(shape) for name, shape in floats.items()}
        made |= {name: torch.zeros(shape, dtype=self._dtype) for name, shape in own_dtype.items()}
        made.setdefault("gated", made["gate_up"])
        few = torch.zeros(lanes // 4, self._widest) if tokens <= lanes // 4 and not self._in_pairs else None
        span, own, adapted, paired = self._spans(spans, stride)
        factors = self._factors(spans)
        call = Pass(
            tokens=tokens,
            vectors=vectors,
            stride=stride,
            spans=len(spans),
            products=len(self._products),
            span=span.ctypes.data,
            factors=factors.ctypes.data,
            adapted=adapted.data_ptr(),
            paired=paired.data_ptr(),
            few=None if few is None else few.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in made.items()},
        )
        logits = torch.empty(tokens, self._head_weights.weight.shape[0])
        return _Bound(call, (made["cos"], made["sin"]), logits, (made, span, own, adapted, paired, few, factors))

    def _spans(
        self, spans: Sequence[AdapterSpan], stride: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Tensor, Tensor]:
        """The spans' structures, the masks of their tokens, and memory for their A·x and for their x in pairs."""
        own = np.zeros((len(spans), stride), np.int32)
        made = np.zeros(len(spans), SPAN)
        hidden = paired = 0
        for i, span in enumerate(spans):
            own[i, span.start : span.end] = -1
            rank = span.slot.pool.layout.bucket
            window, width, in_pairs = self._window(span, stride)
            made[i] = (span.start, span.end, rank, hidden, window, paired, own[i].ctypes.data, ALPHA / span.slot.rank)
            # Of up to three layers with one input.
            hidden += 3 * rank * width // (2 if self._in_pairs else 1)
            paired += self._widest * width * in_pairs
        return made, own, torch.empty(hidden), torch.empty(paired)

    def _window(self, span: AdapterSpan, stride: int) -> tuple[int, int, bool]:
        """Of a span's columns the first, where they begin at a token, their number, and whether its x is in pairs."""
        lanes, half = self._lanes, self._lanes // 2
        if self._in_pairs:
            width = -(-(span.end - span.start) // lanes) * lanes
            # Where a whole register begins if that takes no more of them: no load is split over two lines of memory.
            whole = span.start - span.start % lanes
            return whole if span.end <= whole + width else min(span.start, stride - width), width, False
        if span.end - span.start <= half:
            return min(span.start, stride - half), half, True
        # All vectors that hold one of its tokens.
        return -1, lanes * (-(-span.end // lanes) - span.start // lanes), False

    def _factors(self, spans: Sequence[AdapterSpan]) -> np.ndarray[Any, Any]:
        """Addresses of A and B for each product and span, int64 [products, spans, 4]."""
        found = np.zeros((len(self._products), len(spans), FACTORS), np.int64)
        for i, span in enumerate(spans):
            pool = span.slot.pool
            places = self._places.get(pool.layout)
            if places is None:
                places = self._places[pool.layout] = np.array([_places(pool.layout, p.names) for p in self._products])
            first = pool.weights.data_ptr() + span.slot.index * pool.slot_bytes
            found[:, i] = np.where(places < 0, 0, first + places * pool.weights.element_size())
        return found


def _places(layout: Layout, names: tuple[str, ...]) -> list[int]:
    if names[0] not in layout.places:
        return [-1] * FACTORS
    places = [layout.places[name] for name in names]
    bs = [place.b_offset for place in places]
    return [places[0].a_offset, *bs, *[-1] * (FACTORS - 1 - len(bs))]


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
