"""The victim, which measures one piece of work at a time, and the floods of another key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.load.figures import Figures
from benchmarks.load.http_client import HttpClient
from benchmarks.load.users import User, Work

# A pause between two pieces of the victim's work, so that each begins as a newcomer does.
_PAUSE_S = 0.05
# A burst that fills the queue is never submitted whole.
_SUBMITTED_S = 20.0


@dataclass(frozen=True)
class Times:
    """Seconds of single pieces of the victim's work."""

    sample: list[float]
    step: list[float]


class Victim:
    """A tenant with one adapter that takes one small step or draws one short sample at a time."""

    def __init__(self, http: HttpClient, work: Work) -> None:
        self._figures = Figures()
        self._user = User(http, work, self._figures, 0)

    async def open(self) -> None:
        """Open the session; the first of each kind pays for what is made once."""
        await self._user.open()
        for _ in range(5):
            await self._user.sample()
            await self._user.step()

    async def measure(self, repeats: int, seconds: float) -> Times:
        """Take turns of both kinds, for so long and so often at most."""
        times = Times([], [])
        end = time.monotonic() + seconds
        while len(times.step) < repeats and (time.monotonic() < end or not times.step):
            for found, work in ((times.sample, self._user.sample), (times.step, self._user.step)):
                started = time.perf_counter()
                await work()
                found.append(time.perf_counter() - started)
                await asyncio.sleep(_PAUSE_S)
        if self._figures.faults:
            raise RuntimeError(f"the victim's work failed: {dict(self._figures.faults)}")
        return times

    async def finish(self) -> None:
        """End the session."""
        await self._user.finish()


class Flooder(User):
    """A session of the flood: it keeps bursts of requests in flight and fetches only the last result of each.

    A client that fetched everything would slow down the service's other half, which is not what is measured here.
    """

    def start(self, lanes: int, burst: Callable[[Flooder], Awaitable[None]]) -> None:
        """Run so many bursts at once, each again as soon as it has ended, until `stop`."""
        self.submitted = asyncio.Event()
        self._bursts = [asyncio.create_task(self._over_and_over(lambda: burst(self))) for _ in range(lanes)]

    async def stop(self) -> None:
        """Drop what is in flight and end the session."""
        self.going = False
        for task in self._bursts:
            task.cancel()
        await asyncio.gather(*self._bursts, return_exceptions=True)
        self._lanes = []
        await self.finish()

    async def samples(self, number: int) -> None:
        """Submit so many sampling requests and wait for the last one."""
        last = ""
        for _ in range(number):
            self._samples += 1
            fields = self._sample_fields + f',"seq_id":{self._samples}}}'
            last = await self._submit(self._post("asample", fields.encode()))
        self.submitted.set()
        await self._poll(last)

    async def steps(self, number: int) -> None:
        """Submit so many training steps and wait for the last one."""
        last = ""
        for _ in range(number):
            seq = self._next(2)
            _, last = await asyncio.gather(self._submit(self._batch(seq)), self._submit(self._optim(seq + 1)))
        self.submitted.set()
        await self._poll(last)


@dataclass(frozen=True)
class Flood:
    """A kind of flood.

    Attributes:
        name: in the table.
        work: what one of its requests asks for.
        sessions: how many sessions it has, each with an adapter of its own.
        lanes: bursts of each session at once.
        burst: what a burst is.
    """

    name: str
    work: Work
    sessions: int
    lanes: int
    burst: Callable[[Flooder], Awaitable[None]]


def floods(work: Work, queue: int) -> list[tuple[str, Sequence[Flood]]]:
    """Return the floods by name.

    Args:
        work: the victim's, whose model they use too.
        queue: samples that the service queues at most.
    """
    sampling = replace(work, max_tokens=200)
    samples = Flood("800 samples of 200 tokens", sampling, 1, 8, lambda user: user.samples(100))
    groups = Flood("4 requests of n=1000", replace(sampling, num_samples=1000), 1, 4, lambda user: user.samples(1))
    batches = replace(work, datums=32, length=128)
    training = Flood("training: 8 runs, 2 steps each in flight", batches, 8, 1, lambda user: user.steps(2))
    full = Flood("a full queue", sampling, 1, 8, lambda user: user.samples(queue // 4))
    return [
        *((one.name, [one]) for one in (samples, groups, training, full)),
        ("training and 800 samples", [training, samples]),
    ]


async def begin(http: HttpClient, kinds: Sequence[Flood]) -> list[Flooder]:
    """Open the sessions of a flood and begin it; returns once each has its first burst in the service's queue."""
    users: list[Flooder] = []
    for kind in kinds:
        some = [Flooder(http, kind.work, Figures(), len(users) + number + 1) for number in range(kind.sessions)]
        for user in some:
            await user.open()
        for user in some:
            user.start(kind.lanes, kind.burst)
        users += some
    # What a client can submit is another question: until then it is the API process that is flooded, not the engine.
    _, late = await asyncio.wait([asyncio.create_task(u.submitted.wait()) for u in users], timeout=_SUBMITTED_S)
    for waiting in late:
        waiting.cancel()
    return users
