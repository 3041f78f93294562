"""Tensors that passes of one shape write to, and products bound to them, from one decoding step to the next.

torch takes some microseconds to make a tensor, or a view of one, during which it holds Python's lock. In a decoding
step of a small model that is a tenth of the time, and steps on two threads wait for each other's. Steps that follow
each other mostly have the same sequences, so what one has made the next can use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Workspace:
    """Of one thread: two passes at once need two."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._key: tuple[Any, ...] | None = None
        self._bound: Any = None

    def bound(self, key: tuple[Any, ...], bind: Callable[[], T]) -> T:
        """Return what `bind` made the last time, if that was for the same key; else call it with no rooms taken."""
        if key != self._key:
            # First, so that old and new are not held together.
            self._key, self._bound, self._rooms = None, None, {}
            self._bound = bind()
            self._key = key
        return self._bound

    def room(self, use: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return a tensor to write to, of a dtype and on a device as `like`; the same one for all of one use and shape.

        What is in it counts until the next who has the same use for it.
        """
        found = self._rooms.get((use, shape))
        if found is None:
            found = self._rooms[use, shape] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return found
