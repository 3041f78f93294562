"""Sequences of some owners, with blocks of a cache as a schedule would have given them."""

from __future__ import annotations

from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.cache.block_manager import BlockManager
from tinsmith.engine.sampling.places.holdings import Holdings
from tinsmith.engine.sampling.places.room import Room
from tinsmith.engine.sampling.places.waiting import Waiting
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sampling.stops import TokenStop
from tinsmith.engine.sharing import EVEN, Turn
from tinsmith.types.params import SamplingParams


def sequence(owner: str, order: int, version: int = 0, samples: int = 1) -> Sequence:
    """Return the first sample of a request: the higher `order`, the younger."""
    job = SampleJob(
        request_id=str(order), sampler_id="s", owner=owner, prompt=[1, 2], num_samples=samples, params=SamplingParams()
    )
    group = SampleGroup(job, 0, order, None, version, 50, None, _make, unfinished=samples)
    return group.begin_next()


def _make(group: SampleGroup, sample: int) -> Sequence:
    return Sequence(group, sample, list(group.job.prompt), TokenStop(()), 0)


class Cache:
    """Places and blocks, and who has them."""

    def __init__(self, places: int, blocks: int) -> None:
        self.blocks = BlockManager(blocks)
        self.holdings = Holdings(places, blocks)
        self.waiting = Waiting()
        self.prefilling: list[Sequence] = []
        self.running: list[Sequence] = []
        self.room = Room(self.blocks, self.holdings, self.waiting, self.prefilling, self.running)

    def run(self, owner: str, order: int, blocks: int = 1) -> Sequence:
        """Let a sequence run on some blocks."""
        entered = sequence(owner, order)
        entered.blocks = [self.blocks.allocate() for _ in range(blocks)]
        self.running.append(entered)
        self.holdings.enter(entered)
        return entered

    def wait(self, owner: str, order: int, samples: int = 1) -> Sequence:
        """Let a sequence wait."""
        newcomer = sequence(owner, order, samples=samples)
        self.waiting.add(newcomer)
        return newcomer

    def begin(self, turn: Turn = EVEN) -> None:
        """Settle what everybody is due, who is there now."""
        self.holdings.begin(turn, self.waiting.owners())
