"""Mixture of experts with one low-rank adapter per expert.

Every expert e has y = W_e·x + (alpha / r)·B_e·A_e·x on its fused gate-and-up weight (one A for both halves) and on its
down weight. Each token meets k experts; the (token, expert) pairs are sorted by expert once per layer, and because the
sort is stable, the pairs of one expert lie in stream order, so every adapter's span stays in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.model.context import AdapterSpan, ContextCell, ForwardContext
from tinsmith.engine.model.lora import LoraSpan, lora_map
from tinsmith.engine.model.tiles.products import WHOLE, Products
from tinsmith.engine.transfers import to_device


@dataclass(frozen=True, slots=True)
class ExpertPiece:
    """Pairs [start, end) of the sorted order: those of one expert for one stretch of the stream.

    `slot` is the stretch's adapter, None for the base alone.
    """

    expert: int
    slot: Slot | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Routing:
    """Who meets which expert in one layer.

    Attributes:
        order: pair (token * k + choice) at each place of the sorted order, int64 [T * k].
        place: place of each pair in the sorted order, int64 [T * k].
        per_token: k.
        bounds: start of each expert's pairs and the end of the last's.
        pieces: the sorted order cut by expert and adapter; empty ones left out.
    """

    order: Tensor
    place: Tensor
    per_token: int
    bounds: tuple[int, ...]
    pieces: tuple[ExpertPiece, ...]

    @classmethod
    def of(cls, chosen: Tensor, experts: int, context: ForwardContext) -> Routing:
        """Sort the pairs.

        Args:
            chosen: experts of each token, int64 [T, k].
            experts: number of experts.
            context: the pass, for its adapters.
        """
        tokens, per_token = chosen.shape
        slots, ends = context.stretches
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        # The inverse permutation, so that the way back is a gather too and no scatter-add is needed.
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel(), device=order.device)
        stretch = torch.bucketize(torch.arange(tokens, device=order.device), ends, right=True)
        # One count for all (expert, stretch) pairs: a single transfer to the CPU per layer.
        key = flat * len(slots) + stretch.repeat_interleave(per_token)
        counts = torch.bincount(key, minlength=experts * len(slots)).tolist()
        bounds, pieces, start = [0], [], 0
        for expert in range(experts):
            for i, slot in enumerate(slots):
                end = start + counts[expert * len(slots) + i]
                if end > start:
                    pieces.append(ExpertPiece(expert, slot, start, end))
                start = end
            bounds.append(start)
        return cls(order, place, per_token, tuple(bounds), tuple(pieces))

    def spans_for(self, name: str) -> list[LoraSpan]:
        """Return the pieces whose adapters act on the expert weight `name`."""
        found: list[LoraSpan] = []
        for p in self.pieces:
            views = None if p.slot is None else p.slot.pool.views(name)
            if p.slot is not None and views is not None:
                a, b = (v[p.slot.index, p.expert] for v in views)
                # Spans count in sorted pairs here, not in tokens of the stream.
                span = AdapterSpan(p.slot, p.start, p.end)
                found.append(LoraSpan(span, a, b, p.slot.scale(name), partial(_of_expert, p.expert)))
        return found


def _of_expert(expert: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One expert's A [rank, in] and B [out, rank] out of all experts'."""
    return a[expert], b[expert]


@dataclass(frozen=True, slots=True)
class Grouped:
    """The frozen map of all experts of a layer: rows sorted by expert, each through its expert's weight.

    Attributes:
        weight: [experts, out, in].
        bounds: start of each expert's rows and the end of the last's.
        products: of the model.
    """

    weight: Tensor
    bounds: tuple[int, ...]
    products: Products = WHOLE

    def apply(self, x: Tensor) -> Tensor:
        """[pairs, in] to [pairs, out]."""
        return self._multiply(x, self.weight.transpose(1, 2))

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        """[pairs, out] to [pairs, in]."""
        return self._multiply(grad_y, self.weight)

    def finish(self, y: Tensor) -> None:
        """Nothing is left to do."""

    def finish_gradient(self, grad_x: Tensor) -> None:
        """Nothing is left to do."""

    def _multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        # The grouped kernel takes bfloat16; other dtypes, and CPUs, multiply expert by expert.
        # It wants rows that begin at multiples of 16 bytes.
        aligned = not any(width * x.dtype.itemsize % 16 for width in weight.shape[1:])
        if x.device.type == "cuda" and x.dtype == torch.bfloat16 and self.products.tile == 1 and aligned:
            ends = to_device(self.bounds[1:], x.device, torch.int32)
            return torch.nn.functional.grouped_mm(x, weight, offs=ends)
        y = x.new_empty(x.shape[0], weight.shape[2])  # [pairs, out]; bounds cover all of it
        for expert in range(weight.shape[0]):
            start, end = self.bounds[expert], self.bounds[expert + 1]
            if end > start:
                self.products.mm(x[start:end], weight[expert], out=y[start:end])
        return y


class _Spread(torch.autograd.Function):
    """Tokens [T, H] to sorted pairs [T * k, H]. Like `_Collect` of its own, so that no gradient is added atomically."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return x.index_select(0, routing.order // routing.per_token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _collect(grads[0], ctx.routing), None


class _Collect(torch.autograd.Function):
    """Sorted pairs [T * k, H] to tokens [T, H], summed over each token's k pairs in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return _collect(x, routing)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.routing.order // ctx.routing.per_token), None


def _collect(x: Tensor, routing: Routing) -> Tensor:
    return x.index_select(0, routing.place).view(-1, routing.per_token, x.shape[-1]).sum(1)


class LoraExperts(nn.Module):
    """The experts of one layer with the adapters of the running pass on top.

    Args:
        base: the experts of the base model, with `gate_up_proj` [experts, 2 * width, hidden] and `down_proj`
            [experts, hidden, width].
        name: of the module in the model.
        cell: where the running pass is found.
    """

    def __init__(self, base: nn.Module, name: str, cell: ContextCell) -> None:
        super().__init__()
        self.gate_up_proj: Tensor = base.gate_up_proj  # pyright: ignore[reportAttributeAccessIssue]
        self.down_proj: Tensor = base.down_proj  # pyright: ignore[reportAttributeAccessIssue]
        self.act_fn: Any = base.act_fn
        self.name = name
        self._cell = cell

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Mix each token's experts.

        Args:
            hidden_states: [T, hidden].
            top_k_index: experts of each token, int64 [T, k].
            top_k_weights: their weights, [T, k].

        Returns:
            [T, hidden].
        """
        context = self._cell.current
        routing = Routing.of(top_k_index, self.gate_up_proj.shape[0], context)
        x: Tensor = _Spread.apply(hidden_states, routing)  # pyright: ignore[reportAssignmentType]  # [T * k, H]
        gate, up = self._map(x, "gate_up_proj", routing, context).chunk(2, dim=-1)
        y = self._map(self.act_fn(gate) * up, "down_proj", routing, context)
        # The routers' weights multiply what an expert gives, adapter included; gradients flow through them to the
        # layers before, though routers themselves never train.
        y = y * top_k_weights.reshape(-1, 1).index_select(0, routing.order)
        return _Collect.apply(y.to(hidden_states.dtype), routing)  # pyright: ignore[reportReturnType]

    def _map(self, x: Tensor, weight: str, routing: Routing, context: ForwardContext) -> Tensor:
        name = f"{self.name}.{weight}"
        base = Grouped(getattr(self, weight), routing.bounds, context.products)
        return lora_map(x, base, routing.spans_for(name), name, context)
