"""Groups of like environments, and a data set of groups made from a list of items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tinsmith.cookbook.rl.environment import EnvGroupBuilder, RLDataset
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.types.errors import invalid

Item = TypeVar("Item")


@dataclass(frozen=True)
class RepeatedEnv(EnvGroupBuilder):
    """A group whose environments are all made alike: one problem, answered several times.

    Attributes:
        make_env: makes one environment.
        group_size: how many.
        tags: names of the kinds of problem that this is.
    """

    make_env: Callable[[], Any]
    group_size: int
    tags: Sequence[str] = ()

    async def make_envs(self) -> Sequence[Any]:
        """Return the environments."""
        return [self.make_env() for _ in range(self.group_size)]

    def logging_tags(self) -> Sequence[str]:
        """Return the tags."""
        return self.tags


@dataclass(frozen=True)
class ItemDataset(RLDataset, Generic[Item]):
    """Batches of items in a new order every epoch, each item made a group.

    Attributes:
        items: problems, rows, seeds of games.
        make_group: makes the group of an item.
        batch_size: items per batch; fewer items than that are one batch. Items that fill no batch wait for the next
            epoch's order.
        seed: of the orders; None keeps the items' own order, and drops none.
        described: what the data are, as `RLDataset.facts` gives it.

    Raises:
        UserError: there are no items.
    """

    items: Sequence[Item]
    make_group: Callable[[Item], EnvGroupBuilder]
    batch_size: int
    seed: int | None = 0
    described: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.items:
            raise invalid("items", "none", "at least one")

    def __len__(self) -> int:
        whole = len(self.items) // self.batch_size
        return max(1, whole) if self.seed is not None else -(-len(self.items) // self.batch_size)

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """Return the groups of a batch; the epoch follows from the index."""
        epoch, place = divmod(index, len(self))
        count = len(self.items)
        order = range(count) if self.seed is None else seeded("items", self.seed, epoch).permutation(count)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [self.make_group(self.items[int(i)]) for i in chosen]

    def facts(self) -> Mapping[str, Any]:
        """Return how many items there are, and what was described."""
        return {"items": len(self.items), **self.described}
