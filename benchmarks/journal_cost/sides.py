"""Services in this process that differ in what they store, a training run on each, and what its steps take."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.common import random_tokens
from tinsmith import AdamParams, Datum, ServiceClient, TrainingClient, embedded
from tinsmith.client.transport import embedding
from tinsmith.client.transport.loop import background
from tinsmith.cluster.in_process import InProcessLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.models import path as model_folder
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.db.writer import Writer
from tinsmith.server.store.journal.journal import Journal
from tinsmith.settings import Settings

OFF, ON, FULL, POINTS = "off", "on", "durability=full", "a point each step"
# A recovery point is due whenever it may be asked for.
SIDES: dict[str, dict[str, Any]] = {
    OFF: {},
    ON: {},
    FULL: {"durability": "full"},
    POINTS: {"recovery_interval_s": 1e-6},
}
MODEL = "tinsmith-tiny"
_LAST = [Datum(tokens=[1], targets=[2], weights=[1.0])]
# What is left to do after the last answer is no part of the next side's block, seconds.
_REST_S = 0.2
_ADAM = AdamParams(learning_rate=1e-4)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        rank: of the adapters.
        datums, length: of a step's batch; tokens of a datum.
        rounds: blocks of each side, after one that is not counted.
        steps: of a block.
    """

    rank: int = 32
    datums: int = 16
    length: int = 128
    rounds: int = 20
    steps: int = 3


QUICK = Sizes(rank=4, datums=2, length=16, rounds=2, steps=1)


class Watch:
    """What the journals of this process take.

    Attributes:
        waited: how long operations have waited until they, or their outcomes, were stored, seconds.
        written: processor time of the threads that write to databases, seconds.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.written = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the body runs."""
        plain, commit = (Journal.add, Journal.settle), Writer._commit
        Journal.add, Journal.settle = (self._waiting(method) for method in plain)
        Writer._commit = self._writing(commit)
        try:
            yield
        finally:
            Journal.add, Journal.settle = plain
            Writer._commit = commit

    def _waiting(self, method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def timed(*args: Any, **options: Any) -> None:
            began = time.perf_counter()
            try:
                await method(*args, **options)
            finally:
                self.waited += time.perf_counter() - began

        return timed

    def _writing(self, method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def timed(*args: Any) -> None:
            began = time.thread_time()
            try:
                method(*args)
            finally:
                self.written += time.thread_time() - began

        return timed


_watch = Watch()


@dataclass
class Side:
    """A service, a training run on it, and what each of its blocks took per step, seconds.

    Attributes:
        walls, cpus: elapsed time, and processor time of this process.
        waits: how long the step's operations waited until they, and then their outcomes, were stored.
        writes: processor time of the thread that writes to the database.
    """

    name: str
    run: TrainingClient
    walls: list[float] = field(default_factory=list[float])
    cpus: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    writes: list[float] = field(default_factory=list[float])

    def block(self, batches: Sequence[list[Datum]]) -> None:
        """Train on some batches as a script does: both halves of a step are sent, then both are waited for."""
        waited, written = _watch.waited, _watch.written
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in batches:
            gradients = self.run.forward_backward(batch, "cross_entropy")
            step = self.run.optim_step(_ADAM)
            gradients.result()
            step.result()
        # The engine comes to it once it has written what the last step made due.
        self.run.forward(_LAST, "cross_entropy").result()
        self.walls.append((time.perf_counter() - wall) / len(batches))
        self.waits.append((_watch.waited - waited) / len(batches))
        self.writes.append((_watch.written - written) / len(batches))
        time.sleep(_REST_S)
        self.cpus.append((time.process_time() - cpu) / len(batches))


def measure(sizes: Sizes, folder: Path, order: random.Random) -> list[Side]:
    """Let all sides take turns, in another order each round."""
    rng = np.random.default_rng(0)
    with _watch.watching(), ExitStack() as stack:
        sides: list[Side] = []
        for at, name in enumerate(SIDES):
            sides.append(Side(name, stack.enter_context(_training(name, folder / str(at), sizes))))
            # It opens all its connections while its service is the one that is found.
            sides[-1].block([_batch(rng, sizes)])
        for number in range(sizes.rounds + 1):
            batches = [_batch(rng, sizes) for _ in range(sizes.steps)]
            for side in order.sample(sides, len(sides)):
                side.block(batches)
                if number == 0:
                    side.walls.clear()
                    side.cpus.clear()
                    side.waits.clear()
                    side.writes.clear()
        return sides


@contextmanager
def _training(name: str, home: Path, sizes: Sizes) -> Iterator[TrainingClient]:
    """Start a service in this process, and a run on it."""
    settings = Settings(base_url=None, home=home, **SIDES[name])
    model = model_folder(MODEL)
    link = InProcessLink([ModelSpec(MODEL, str(model))], settings)
    service = Service(settings, link, BaseModels({MODEL: model}), owner=embedded.OWNER, journal=name != OFF)

    background().submit(service.start()).result()
    background().submit(service.wait_ready()).result()
    transport = embedded.ShieldedTransport(create_app(service))

    async def found(_: Settings) -> httpx.AsyncBaseTransport:
        return transport

    # Whoever asks for the service of this process from now on gets this one.
    embedding.register(found)
    with ServiceClient() as client:
        yield client.create_lora_training_client(base_model=MODEL, rank=sizes.rank, seed=1)
    background().submit(service.stop()).result()


def _batch(rng: np.random.Generator, sizes: Sizes) -> list[Datum]:
    rows = [random_tokens(rng, sizes.length + 1, 256) for _ in range(sizes.datums)]
    return [Datum(tokens=row[:-1], targets=row[1:], weights=[1.0] * sizes.length) for row in rows]
