"""What each kind of tenant does, and how many there are of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import simpy

from benchmarks.simulation.tenants import Process, Tenant
from benchmarks.simulation.world import World


def chat(me: Tenant) -> Process:
    """A person who reads the answer before the next question."""
    sampler = me.open_base()
    while True:
        yield me.sample(sampler, prompt=me.random.randint(50, 400), max_tokens=256)
        yield me.rest(40.0)


def interactive(me: Tenant) -> Process:
    """A loop that waits for each step, in bouts: it trains for a while, then its owner looks at the curve."""
    run = me.open_run()
    while True:
        for _ in range(me.random.randint(10, 40)):
            yield me.step(run, rows=4, length=me.random.randint(64, 384))
            yield me.rest(1.0)
        yield me.rest(1800.0)


def pipelined(me: Tenant) -> Process:
    """A loop with four steps in flight, a hundred steps at a time."""
    run = me.open_run()
    while True:
        ahead: list[simpy.Event] = []
        for _ in range(100):
            ahead.append(me.step(run, rows=8, length=me.random.randint(128, 512)))
            if len(ahead) == 4:
                yield ahead.pop(0)
        yield me.all_of(ahead)
        yield me.rest(1800.0)


def reinforcement(me: Tenant) -> Process:
    """Groups of samples, a step on them, new weights to sample from."""
    run = me.open_run()
    me.refresh(run)
    while True:
        for _ in range(me.random.randint(3, 8)):
            yield me.all_of([me.sample(run.sampler_id, prompt=200, max_tokens=300, samples=8) for _ in range(4)])
            yield me.step(run, rows=32, length=350)
            me.refresh(run)
        yield me.rest(1800.0)


def evaluator(me: Tenant) -> Process:
    """A benchmark's questions, all at once."""
    sampler = me.open_base()
    while True:
        yield me.all_of([me.sample(sampler, prompt=me.random.randint(100, 300), max_tokens=200) for _ in range(1000)])
        yield me.rest(3600.0)


def training_flood(me: Tenant) -> Process:
    """Batches without end, fifty in flight, over five runs."""
    runs = [me.open_run() for _ in range(5)]
    ahead: list[simpy.Event] = []
    for run in itertools.cycle(runs):
        ahead.append(me.step(run, rows=16, length=512))
        if len(ahead) == 50:
            yield me.any_of(ahead)
            ahead = [event for event in ahead if not event.processed]


def sampling_flood(me: Tenant) -> Process:
    """Requests without end, two hundred in flight."""
    sampler = me.open_base()
    ahead: list[simpy.Event] = []
    while True:
        ahead.append(me.sample(sampler, prompt=100, max_tokens=300))
        if len(ahead) == 200:
            yield me.any_of(ahead)
            ahead = [event for event in ahead if not event.processed]


def visitor(me: Tenant) -> Process:
    """Comes, trains a little, samples once, and leaves for a long time."""
    while True:
        run = me.open_run()
        for _ in range(5):
            yield me.step(run, rows=2, length=128)
        me.refresh(run)
        yield me.sample(run.sampler_id, prompt=60, max_tokens=100)
        yield me.close_run(run)
        yield me.rest(1800.0)


@dataclass(frozen=True)
class Kind:
    """A kind of tenant.

    Attributes:
        life: what it does.
        share: of all tenants.
    """

    life: Callable[[Tenant], Process]
    share: float


KINDS = {
    "chat": Kind(chat, 0.40),
    "visitor": Kind(visitor, 0.30),
    "interactive": Kind(interactive, 0.16),
    "reinforcement": Kind(reinforcement, 0.06),
    "pipelined": Kind(pipelined, 0.04),
    "evaluator": Kind(evaluator, 0.02),
    "training flood": Kind(training_flood, 0.01),
    "sampling flood": Kind(sampling_flood, 0.01),
}
# Every tenth key counts twice.
HEAVY_EVERY = 10


def numbers_of(tenants: int) -> dict[str, int]:
    """Return how many of each kind there are among so many: one, and its share of the rest; chats take what is over."""
    numbers = {name: 1 + int(kind.share * (tenants - len(KINDS))) for name, kind in KINDS.items()}
    numbers["chat"] += tenants - sum(numbers.values())
    return numbers


def make_tenant(world: World, kind: str, number: int, seed: int, after_s: float) -> Tenant:
    """Make a tenant, which begins at random within `after_s` seconds."""
    weight = 2.0 if number % HEAVY_EVERY == HEAVY_EVERY - 1 else 1.0
    tenant = Tenant(world, kind, number, weight, seed)
    tenant.live(KINDS[kind].life, after_s)
    return tenant


def populate(world: World, tenants: int, seed: int, after_s: float) -> None:
    """Make tenants of all kinds."""
    for kind, number in numbers_of(tenants).items():
        for i in range(number):
            make_tenant(world, kind, i, seed, after_s)
