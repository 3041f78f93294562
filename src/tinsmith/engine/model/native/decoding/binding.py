"""The memory that a pass in C computes in, and where it finds each adapter: made once for many passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.adapters.layouts import ALPHA, Layout
from tinsmith.engine.model.context import AdapterSpan
from tinsmith.engine.model.lean.fused_linear import FusedLinear
from tinsmith.engine.model.native.decoding.structures import FACTORS, SPAN, Model, Pass


@dataclass(frozen=True, slots=True)
class Bound:
    """What passes over so many tokens with the same adapters have in common.

    Attributes:
        call: the structure.
        angles: cosines and sines, each [D, stride], to be filled in.
        logits: float32 [T, V], to be filled by the output projection.
        held: what the structure points to.
    """

    call: Pass
    angles: tuple[Tensor, Tensor]
    logits: Tensor
    held: tuple[Any, ...]


class Binding:
    """Makes what the passes of one model have in common.

    Args:
        model: the model.
        products: of all layers, four each, and the output projection.
        vocab_size: of the logits.
        dtype: of weights and activations.
        lanes: numbers in a register.
    """

    def __init__(
        self, model: Model, products: Sequence[FusedLinear], vocab_size: int, dtype: torch.dtype, lanes: int
    ) -> None:
        self._model, self._products, self._vocab_size = model, products, vocab_size
        self._dtype, self._lanes = dtype, lanes
        # Two features of a token in one word, see `bfloat16.h`.
        self._in_pairs = dtype == torch.bfloat16
        self._widest = max(product.weight.shape[1] for product in products)
        # Where a layout has A and B of each product, in numbers from the adapter's first.
        self._places: WeakKeyDictionary[Layout, np.ndarray[Any, Any]] = WeakKeyDictionary()

    def bind(self, tokens: int, spans: Sequence[AdapterSpan]) -> Bound:
        """Return what passes over so many tokens with these adapters have in common."""
        model, lanes = self._model, self._lanes
        vectors = -(-tokens // lanes)
        stride = vectors * lanes
        inner = model.heads * model.head_dim
        floats = {
            "cos": (model.head_dim, stride),
            "sin": (model.head_dim, stride),
            "x": (model.hidden, stride),
            "qkv": (inner + 2 * model.key_heads * model.head_dim, stride),
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
        span, own, adapted = self._spans(spans, stride)
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
            few=None if few is None else few.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in made.items()},
        )
        logits = torch.empty(tokens, self._vocab_size)
        return Bound(call, (made["cos"], made["sin"]), logits, (made, span, own, adapted, few, factors))

    def _spans(
        self, spans: Sequence[AdapterSpan], stride: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Tensor]:
        """The spans' structures, the masks of their tokens, and memory for their A·x."""
        own = np.zeros((len(spans), stride), np.int32)
        made = np.zeros(len(spans), SPAN)
        hidden = 0
        for i, span in enumerate(spans):
            own[i, span.start : span.end] = -1
            rank = span.slot.pool.layout.bucket
            window, width = self._window(span, stride)
            made[i] = (span.start, span.end, rank, hidden, window, own[i].ctypes.data, ALPHA / span.slot.rank)
            # Of up to three layers with one input.
            hidden += 3 * rank * width // (2 if self._in_pairs else 1)
        return made, own, torch.empty(hidden)

    def _window(self, span: AdapterSpan, stride: int) -> tuple[int, int]:
        """Of a span's columns the first, or -1 where all vectors that hold a token of it are computed; their number."""
        lanes, half = self._lanes, self._lanes // 2
        if self._in_pairs:
            width = -(-(span.end - span.start) // lanes) * lanes
            # Where a whole register begins if that takes no more of them: no load is split over two lines of memory.
            whole = span.start - span.start % lanes
            return whole if span.end <= whole + width else min(span.start, stride - width), width
        if span.end - span.start <= half:
            return min(span.start, stride - half), half
        return -1, lanes * (-(-span.end // lanes) - span.start // lanes)

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
