"""Where the weights of adapters lie: pools of slots, and the gradients of one pass.

An adapter is one flat vector. A `Layout` says where each module's A and B lie in it, a `Pool` stacks the vectors of
all adapters of one layout, so that `A[slot, rank, in]` and `B[slot, out, rank]` of a module are views.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tinsmith.engine.adapters.layouts import ALPHA, Layout, view_of


@dataclass(frozen=True, slots=True)
class Factors:
    """A and B of targets that have one input, as a pass computes with them.

    Attributes:
        a: [slots, targets * rank, in].
        b: [slots, out, rank] of each target.
        rank: of the bucket.
    """

    a: Tensor
    b: tuple[Tensor, ...]
    rank: int


class Tenant(Protocol):
    """What lies beside a slot's weights and moves with them: a training state."""

    def move(self, move: Callable[[Tensor], Tensor], /) -> None:
        """Put every vector where `move` puts it."""
        ...

    def publish(self) -> None:
        """Write the slot's weights, which are rounded from the state's."""
        ...


@dataclass(eq=False, slots=True)
class Slot:
    """One adapter's weights, in a row of a pool or, for as long as nobody computes with them, in host memory.

    Attributes:
        pool: the pool.
        rank: the adapter's own rank; A's rows and B's columns from here to the bucket's rank are zero, and stay so,
            because their gradients are.
        number: slots are counted as they are taken; sorts them alike wherever they lie.
        state_bytes: what is granted for a training state beside the weights.
        row: of the pool; None while the weights are in host memory.
        host: the weights in host memory; None where they are in a row, or a training state has them.
        tenant: the training state, once it is made.
    """

    pool: Pool
    rank: int
    number: int
    state_bytes: int = 0
    row: int | None = None
    host: Tensor | None = None
    tenant: Tenant | None = None

    def scale(self, name: str) -> float:
        """Factor on B·A·x at one target: alpha over the target's rank."""
        return ALPHA / self.pool.layout.places[name].target.rank(self.rank)

    @property
    def index(self) -> int:
        """The row that a pass computes with."""
        if self.row is None:
            raise RuntimeError("an adapter that is in host memory was to be computed with: `SlotMemory.use` it first")
        return self.row

    @property
    def flat(self) -> Tensor:
        """The adapter's weights in compute dtype, [P]; a view, valid until the pool grows or the slot moves."""
        return self.host if self.host is not None else self.pool.weights[self.index]

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts slots so that those of one pool are neighbours."""
        return self.pool.layout.bucket, self.pool.layout.size, self.number


class Pool:
    """Stacked compute copies of the adapters of one layout.

    Attributes:
        parked: slots whose weights are in host memory.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self.weights = torch.zeros(0, layout.size, dtype=dtype, device=device)
        self.parked: set[Slot] = set()
        self._seated: dict[int, Slot] = {}
        self._free: list[int] = []
        self._views: dict[str, tuple[Tensor, Tensor]] = {}
        self._factors: dict[tuple[str, ...], Factors | None] = {}

    def views(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return A [slots, rank, in] and B [slots, out, rank] of a target, None where this layout leaves it out."""
        found = self._views.get(name)
        if found is None:
            place = self.layout.places.get(name)
            if place is None:
                return None
            found = self._views[name] = (place.a(self.weights), place.b(self.weights))
        return found

    def factors(self, names: tuple[str, ...]) -> Factors | None:
        """Return the factors of linear layers with one input, None where this layout leaves them out.

        Args:
            names: neighbours in the model, of one kind, so that a layout has all or none; the input's width is even.
        """
        if names not in self._factors:
            self._factors[names] = self._make_factors(names)
        return self._factors[names]

    def _make_factors(self, names: tuple[str, ...]) -> Factors | None:
        places = [self.layout.places[name] for name in names if name in self.layout.places]
        if not places:
            return None
        (rank, inputs), first = places[0].a_shape, places[0].a_offset
        if [place.a_offset for place in places] != [first + i * rank * inputs for i in range(len(names))]:
            raise ValueError(f"names: got {names}, expected targets whose A lie side by side")
        a = view_of(self.weights, first, (len(names) * rank, inputs))
        return Factors(a, tuple(place.b(self.weights) for place in places), rank)

    def _forget_views(self) -> None:
        self._views.clear()
        self._factors.clear()

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.layout.size * self.weights.element_size()

    @property
    def capacity(self) -> int:
        """Slots that exist, used or not."""
        return self.weights.shape[0]

    @property
    def has_room(self) -> bool:
        """Whether a slot can be taken without growing."""
        return bool(self._free)

    @property
    def is_idle(self) -> bool:
        """Whether no slot is in use."""
        return not self._seated and not self.parked

    @property
    def spare(self) -> int:
        """Rows that no slot is in."""
        return len(self._free)

    def grow(self, slots: int) -> None:
        """Add empty slots; views taken before are of the old storage."""
        if not slots:
            return
        old = self.capacity
        # Old and new storage exist for a moment side by side; slots know their row, so none has to be told. Each row is
        # written once: whoever freezes weights for a sampler may wait for this.
        grown = self.weights.new_empty(old + slots, self.layout.size)
        grown[:old] = self.weights
        grown[old:] = 0
        self.weights = grown
        self._forget_views()
        # Taken from the end: low rows first, so that adapters made one after the other are neighbours.
        self._free.extend(reversed(range(old, old + slots)))

    def trim(self) -> int:
        """Drop free slots behind the last one in use where they are more than half; return how many.

        Slots keep their rows. As after `grow`, views taken before are of the old storage: only for the thread that
        computes, between two passes.
        """
        free = set(self._free)
        used = self.capacity
        while used - 1 in free:
            used -= 1
        # Not down to the last one: who ends a run often begins another, and a pool that grows is copied.
        kept = used + used // 2
        dropped = self.capacity - kept
        if used > self.capacity // 2 or dropped <= 0:
            return 0
        # A copy, because a view of some rows would hold on to the memory of all.
        self.weights = self.weights[:kept].clone()
        self._forget_views()
        self._free = [index for index in self._free if index < kept]
        return dropped

    def compact(self) -> int:
        """Drop all free rows, for which the others move together; return how many. Between two passes, as `trim`."""
        dropped = len(self._free)
        if dropped:
            slots = [self._seated[row] for row in sorted(self._seated)]
            kept = torch.tensor([slot.index for slot in slots], dtype=torch.int64, device=self.weights.device)
            self.weights = self.weights[kept]
            self._forget_views()
            self._free = []
            self._seated = dict(enumerate(slots))
            for row, slot in self._seated.items():
                slot.row = row
        return dropped

    def seat(self, slot: Slot) -> None:
        """Give a slot a free row, which holds whatever the last slot left there."""
        slot.row = self._free.pop()
        self._seated[slot.row] = slot
        self.parked.discard(slot)

    def leave(self, slot: Slot) -> None:
        """Take a slot out of the pool, or out of its row if it has one."""
        self.parked.discard(slot)
        if slot.row is not None:
            del self._seated[slot.row]
            self._free.append(slot.row)
            slot.row = None


@dataclass(slots=True)
class PassGradients:
    """Gradients of one pass, kept apart from the adapters' own until the pass has succeeded.

    Attributes:
        dtype: of the gradients (the masters' dtype).
        anchor: a scalar that requires a gradient, so that autograd reaches the first layer although neither the
            embeddings nor the adapters' stacked weights do.
        fresh: buffers of zeros [P] that are lent to the pass, where an adapter's own gradient is still zero: what is
            added there need not be cleared before nor copied afterwards.
        flats: gradient of each adapter's flat vector, [P].
    """

    dtype: torch.dtype
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    fresh: dict[Slot, Tensor] = field(default_factory=dict)
    flats: dict[Slot, Tensor] = field(default_factory=dict)
    _views: dict[tuple[Slot, str], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def views(self, slot: Slot, name: str) -> tuple[Tensor, Tensor]:
        """Return the gradients of A and B of one target, to be added to in place."""
        found = self._views.get((slot, name))
        if found is None:
            flat = self.flats.get(slot)
            if flat is None:
                weights, lent = slot.pool.weights, self.fresh.get(slot)
                if lent is None:
                    lent = torch.zeros(weights.shape[1], dtype=self.dtype, device=weights.device)
                flat = self.flats[slot] = lent
            # Made once per pass and target: a dense layer of every micro-batch asks for the same two views.
            place = slot.pool.layout.places[name]
            found = self._views[slot, name] = (place.a(flat), place.b(flat))
        return found

    def apart(self, before: Collection[Slot]) -> PassGradients:
        """Return an empty part for other rows of the pass.

        Args:
            before: adapters of which parts that are added earlier have rows, too: what is lent goes to the first one.
        """
        return PassGradients(self.dtype, fresh={s: lent for s, lent in self.fresh.items() if s not in before})

    def add(self, other: PassGradients) -> None:
        """Add another part's gradients, adapter by adapter; it is used up."""
        for slot, flat in other.flats.items():
            mine = self.flats.get(slot)
            if mine is None:
                self.flats[slot] = flat
            else:
                mine.add_(flat)
