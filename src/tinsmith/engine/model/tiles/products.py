"""Products of token rows with weights: in one call, or in tiles of a fixed size.

A matrix kernel picks its order of summation by the shapes, so that a token's result can depend in its last bits on how
many other tokens there are. In tiles of 64 rows each call has the same shape whatever else is in the pass, and a row's
result depends on that row alone (He et al. 2025, "Defeating nondeterminism in LLM inference"). `check_tiles` makes sure
that the kernels of a machine hold to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tinsmith.engine.model.wide_products import add_wide_mm

TILE = 64


class Addition(NamedTuple):
    """scale·x·down·up, which an adapter adds to rows `start` to `end`.

    Attributes:
        start: first row.
        end: behind the last row.
        down: [in, R].
        up: [R, out].
        scale: factor.
    """

    start: int
    end: int
    down: Tensor
    up: Tensor
    scale: float


class Outer(NamedTuple):
    """leftᵀ·right, a sum over rows that is to be added to `out`: the gradient of an adapter's A or B.

    Attributes:
        out: [R, n] or [n, R], of a dtype that may be wider, with rows or columns in one piece.
        left: [T, R] or [T, n].
        right: the other.
    """

    out: Tensor
    left: Tensor
    right: Tensor


class Products(Protocol):
    """How rows are multiplied with weights.

    Attributes:
        tile: rows of one call; 1 where all rows go in one.
    """

    tile: int

    def mm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, in] times [in, out]: [n, out], fresh or written into `out`."""
        ...

    def add_mm(self, y: Tensor, x: Tensor, weight: Tensor) -> None:
        """Add [n, in] times [in, out] to `y` [n, out] of the same dtype, in place."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in] to [n, out] with `weight` [out, in] and `bias` [out]."""
        ...

    def mm_with(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        additions: Sequence[Addition],
        out: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """`mm` with a bias and with what adapters add to its rows, and scale·x·down of each.

        Into `out` [n, out], if it is given: where its dtype is wider, in one sum that is not rounded. None where
        that is to be done apart.
        """
        ...

    def add_outer(self, sums: Sequence[Outer]) -> None:
        """Add leftᵀ·right of each to its `out`."""
        ...


class Whole:
    """All rows in one call, the fastest."""

    tile = 1

    def mm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mm(x, weight) if out is None else torch.mm(x, weight, out=out)

    def add_mm(self, y: Tensor, x: Tensor, weight: Tensor) -> None:
        y.addmm_(x, weight)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def mm_with(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        additions: Sequence[Addition],
        out: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        return None

    def add_outer(self, sums: Sequence[Outer]) -> None:
        for out, left, right in sums:
            add_wide_mm(out, left.t(), right)


class Tiled:
    """64 rows in a call; what is missing to the last 64 is filled up with zeros."""

    tile = TILE

    def mm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        out = x.new_empty(x.shape[0], weight.shape[1]) if out is None else out
        for start in range(0, x.shape[0], TILE):
            rows = x[start : start + TILE]
            if rows.shape[0] == TILE:
                torch.mm(rows, weight, out=out[start : start + TILE])
            else:
                out[start:] = torch.mm(fill_up(rows), weight)[: rows.shape[0]]
        return out

    def add_mm(self, y: Tensor, x: Tensor, weight: Tensor) -> None:
        # Not addmm, which may begin its sum with `y` or end with it, as the kernel likes.
        y.add_(self.mm(x, weight))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = self.mm(x, weight.t())
        return y if bias is None else y.add_(bias)

    def mm_with(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        additions: Sequence[Addition],
        out: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        return None

    def add_outer(self, sums: Sequence[Outer]) -> None:
        # Of one sequence each, so that its bits follow that sequence alone.
        WHOLE.add_outer(sums)


WHOLE = Whole()
TILED = Tiled()


def fill_up(x: Tensor, tile: int = TILE) -> Tensor:
    """Add rows of zeros to `x` [n, ...] up to a multiple of `tile`.

    Elementwise kernels treat the few elements behind the last full vector with other instructions, whose exp and log
    differ in the last bit. With 64 rows of whatever width there are none behind.
    """
    missing = -x.shape[0] % tile
    return x if not missing else torch.cat([x, x.new_zeros(missing, *x.shape[1:])])


class TiledLinears(TorchFunctionMode):
    """Computes in tiles what a model multiplies by itself, such as the router of a mixture of experts."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        x, rest = cast(Tensor, args[0]), args[1:]
        flat = x.reshape(-1, x.shape[-1])
        # The stream is a multiple of the tile; differentiable, other than `Tiled.mm`.
        rows = torch.cat([F.linear(part, *rest, **(kwargs or {})) for part in flat.split(TILE)])
        return rows.view(*x.shape[:-1], rows.shape[-1])
