"""Low-rank adapters on linear layers, many adapters in one pass (Hu et al. 2021, arXiv:2106.09685, section 4.1).

y = W·x + b + (alpha / r)·B·A·x, where each span of the packed stream brings its own A and B. The base weight gets no
gradient; the adapters' gradients are added into the pass's own buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.model.context import AdapterSpan, ContextCell, ForwardContext
from tinsmith.engine.model.shards import ShardedDense
from tinsmith.engine.model.tiles.products import WHOLE, Addition, Outer, Products

# Takes what a layer computes with out of a whole A and B: one expert's, or one rank's.
TakePart = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class LoraSpan:
    """A span of tokens with the factors that one linear layer applies to it.

    Attributes:
        span: the tokens and the adapter.
        a: [R, in].
        b: [out, R].
        scale: factor on B·A·x.
        part: how `a` and `b` were taken out of the adapter's, so that their gradients go there; None for all.
    """

    span: AdapterSpan
    a: Tensor
    b: Tensor
    scale: float
    part: TakePart | None = None

    def rows(self, x: Tensor) -> Tensor:
        """The span's tokens of `x` [T, ...], as a view."""
        return x[self.span.start : self.span.end]


def spans_for(context: ForwardContext, name: str, part: TakePart | None = None) -> list[LoraSpan]:
    """Return the spans whose adapters act on the layer `name`, with the part of them that it computes with."""
    found: list[LoraSpan] = []
    for span in context.spans:
        views = span.slot.pool.views(name)
        if views is not None:
            a, b = (view[span.slot.index] for view in views)
            if part is not None:
                a, b = part(a, b)
            found.append(LoraSpan(span, a, b, span.slot.scale(name), part))
    return found


def add_delta(y: Tensor, x: Tensor, spans: Sequence[LoraSpan], products: Products) -> list[Tensor]:
    """Add each span's scaled B·A·x to `y` in place.

    Args:
        y: [T, out].
        x: [T, in].
        spans: of this layer.
        products: of the model.

    Returns:
        scale·A·x of each span, [tokens, R], which the gradient of B needs.
    """
    hidden: list[Tensor] = []
    for s in spans:
        # A first: [tokens, in] @ [in, R] @ [R, out] costs tokens * R * (in + out); B·A would cost in * R * out and be
        # as large as the weight. The scale goes onto the smallest tensor of the three.
        h = products.mm(s.rows(x), s.a.t()).mul_(s.scale)
        products.add_mm(s.rows(y), h, s.b.t())
        hidden.append(h)
    return hidden


def add_delta_gradients(
    grad_x: Tensor | None,
    grad_y: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    spans: Sequence[LoraSpan],
    name: str,
    gradients: PassGradients,
    products: Products,
) -> None:
    """Differentiate `add_delta`: add to `grad_x` in place and to the adapters' gradients.

    With g the gradient of y and h = scale·A·x: grad B = gᵀ·h, grad h = scale·g·B, grad A = grad hᵀ·x and
    grad x = grad h·A.

    Args:
        grad_x: [T, in], or None where nothing before this layer is trained.
        grad_y: [T, out].
        x: [T, in].
        hidden: what `add_delta` returned.
        spans: what `add_delta` was given.
        name: of the layer.
        gradients: of the pass.
        products: of the model.
    """
    grad_hidden: list[Tensor] = []
    for s in spans:
        grad_h = products.mm(s.rows(grad_y), s.b).mul_(s.scale)  # [tokens, R]
        if grad_x is not None:
            products.add_mm(s.rows(grad_x), grad_h, s.a)
        grad_hidden.append(grad_h)
    add_factor_gradients(grad_hidden, grad_y, x, hidden, spans, name, gradients, products)


def add_factor_gradients(
    grad_hidden: Sequence[Tensor],
    grad_y: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    spans: Sequence[LoraSpan],
    name: str,
    gradients: PassGradients,
    products: Products,
) -> None:
    """The part of `add_delta_gradients` that is left once the gradient of each span's h is known, [tokens, R]."""
    sums: list[Outer] = []
    for s, h, grad_h in zip(spans, hidden, grad_hidden, strict=True):
        grad_a, grad_b = gradients.views(s.span.slot, name)
        if s.part is not None:
            grad_a, grad_b = s.part(grad_a, grad_b)
        sums.append(Outer(grad_a, grad_h, s.rows(x)))
        sums.append(Outer(grad_b, s.rows(grad_y), h))
    products.add_outer(sums)


def forward_additions(spans: Sequence[LoraSpan]) -> list[Addition]:
    """Return what `add_delta` adds, for a product that adds it on the way."""
    return [Addition(s.span.start, s.span.end, s.a.t(), s.b.t(), s.scale) for s in spans]


def backward_additions(spans: Sequence[LoraSpan]) -> list[Addition]:
    """Return what `add_delta_gradients` adds to the gradient of x."""
    return [Addition(s.span.start, s.span.end, s.b, s.a, s.scale) for s in spans]


class Frozen(Protocol):
    """A frozen linear map of the base, the part of a layer that has no gradient of its own."""

    def apply(self, x: Tensor) -> Tensor:
        """[T, in] to a fresh [T, out]."""
        ...

    def finish(self, y: Tensor) -> None:
        """Complete the output in place, after the adapters' part was added."""
        ...

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        """Gradient of `apply`'s input: [T, out] to a fresh [T, in]."""
        ...

    def finish_gradient(self, grad_x: Tensor) -> None:
        """Complete the gradient of the input in place, after the adapters' part was added."""
        ...


@dataclass(frozen=True, slots=True)
class Dense:
    """The map of an `nn.Linear`: `weight` [out, in], `bias` [out]."""

    weight: Tensor
    bias: Tensor | None
    products: Products = WHOLE

    def apply(self, x: Tensor) -> Tensor:
        """W·x + b."""
        return self.products.linear(x, self.weight, self.bias)

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        """Wᵀ·grad."""
        return self.products.mm(grad_y, self.weight)

    def finish(self, y: Tensor) -> None:
        """Nothing is left to do."""

    def finish_gradient(self, grad_x: Tensor) -> None:
        """Nothing is left to do."""


class _Lora(torch.autograd.Function):
    """A frozen map with adapters; their gradients are side effects on `gradients`, not outputs of backward.

    Handing A and B to autograd would have it make a gradient of the whole pool, [slots, R, in], for every layer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, base: Frozen, spans: list[LoraSpan], name: str, context: ForwardContext
    ) -> Tensor:
        # `anchor` is never read: it requires a gradient, which makes autograd call backward even where x has none.
        y, hidden = _adapted(x, base, spans, context.products)
        ctx.save_for_backward(x, *hidden)
        ctx.base, ctx.spans, ctx.name, ctx.context = base, spans, name, context
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        grad_y = grads[0].contiguous()
        x, *hidden = ctx.saved_tensors
        gradients, products = ctx.context.gradients, ctx.context.products
        grad_x: Tensor | None = None
        if ctx.needs_input_grad[0] and isinstance(ctx.base, Dense):
            found = products.mm_with(grad_y, ctx.base.weight, None, backward_additions(ctx.spans))
            if found is not None:
                add_factor_gradients(found[1], grad_y, x, hidden, ctx.spans, ctx.name, gradients, products)
                return found[0], None, None, None, None, None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.input_gradient(grad_y)
        add_delta_gradients(grad_x, grad_y, x, hidden, ctx.spans, ctx.name, gradients, products)
        if grad_x is not None:
            ctx.base.finish_gradient(grad_x)
        return grad_x, None, None, None, None, None


def _adapted(x: Tensor, base: Frozen, spans: Sequence[LoraSpan], products: Products) -> tuple[Tensor, list[Tensor]]:
    """The frozen map with its adapters, [T, out], and scale·A·x of each span."""
    if isinstance(base, Dense):
        found = products.mm_with(x, base.weight.t(), base.bias, forward_additions(spans))
        if found is not None:
            return found
    y = base.apply(x)
    hidden = add_delta(y, x, spans, products)
    # After the adapters: where the layer is split over ranks, one sum completes base and adapters together.
    base.finish(y)
    return y, hidden


def lora_map(x: Tensor, base: Frozen, spans: list[LoraSpan], name: str, context: ForwardContext) -> Tensor:
    """Apply a frozen map and the adapters on it: [T, in] to [T, out]; differentiable where the pass trains."""
    # Below the first layer that an adapter acts on nothing is trained, and nothing is kept for a backward pass.
    if context.gradients is None or not torch.is_grad_enabled() or not (spans or x.requires_grad):
        return _adapted(x, base, spans, context.products)[0]
    return _Lora.apply(x, context.gradients.anchor, base, spans, name, context)  # pyright: ignore


class LoraLinear(nn.Module):
    """A frozen linear layer with the adapters of the running pass on top.

    Args:
        base: the layer of the base model; its tensors are used as they are.
        name: of the layer in the model.
        cell: where the running pass is found.
    """

    def __init__(self, base: nn.Linear, name: str, cell: ContextCell) -> None:
        super().__init__()
        sharded = isinstance(base.weight, DTensor)
        self._frozen = ShardedDense.of(base) if sharded else Dense(base.weight, base.bias, cell.products)
        self._part = self._frozen.part if isinstance(self._frozen, ShardedDense) else None
        self.weight, self.bias = self._frozen.weight, self._frozen.bias
        self.out_features, self.in_features = self.weight.shape
        self.name = name
        self._cell = cell

    @property
    def products(self) -> Products:
        """How rows are multiplied with weights."""
        return self._cell.products

    @property
    def native(self) -> bool:
        """Whether what is no product may run in C."""
        return self._cell.native

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]; the leading axes together are the T tokens of the stream."""
        context = self._cell.current
        flat = x.reshape(-1, self.in_features)
        y = lora_map(flat, self._frozen, spans_for(context, self.name, self._part), self.name, context)
        return y.view(*x.shape[:-1], self.out_features)
