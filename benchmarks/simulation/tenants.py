"""Tenants: each asks the service for what its kind asks for, with random numbers of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import simpy

from benchmarks.simulation.engine import MODEL
from benchmarks.simulation.ledger import Account
from benchmarks.simulation.world import World
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    ForwardBackward,
    LoadSampler,
    Operation,
    OptimStep,
    ReleaseModel,
    ReleaseSampler,
    Sample,
    TakeSnapshot,
    Work,
)
from tinsmith.types.params import AdamParams, LoraConfig

# What a tenant does, as a process of simpy.
Process = Generator[simpy.Event, Any]


@dataclass(slots=True)
class Run:
    """A training run.

    Attributes:
        model_id: its adapter.
        next_seq: place of its next operation.
        sampler_id: the newest snapshot; empty before the first.
    """

    model_id: str
    next_seq: int = 1
    sampler_id: str = ""


class Tenant:
    """One owner of a key.

    Args:
        world: where it lives.
        kind: what it does.
        number: tells it from the others of its kind.
        weight: of its key.
        seed: of the whole simulation.

    Attributes:
        random: of this tenant alone, so that it wants the same whoever else is there.
    """

    def __init__(self, world: World, kind: str, number: int, weight: float, seed: int) -> None:
        self._world = world
        self.owner = f"{kind}-{number}"
        self._account = world.ledger.accounts[self.owner] = Account(kind, weight)
        self.random = random.Random(f"{seed} {self.owner}")
        self._made = 0

    # -- time ---------------------------------------------------------------------------------------------------------

    def rest(self, mean_s: float) -> simpy.Event:
        """Do nothing for a time that is exponentially distributed, as arrivals of people are."""
        return self._world.env.timeout(self.random.expovariate(1.0 / mean_s))

    def all_of(self, events: list[simpy.Event]) -> simpy.Event:
        """Wait for several answers."""
        return self._world.env.all_of(events)

    def any_of(self, events: list[simpy.Event]) -> simpy.Event:
        """Wait for one of several answers."""
        return self._world.env.any_of(events)

    # -- training -----------------------------------------------------------------------------------------------------

    def open_run(self) -> Run:
        """Make an adapter; what is sent to it may follow at once."""
        run = Run(self._name())
        self._submit(CreateModel(LoraConfig(rank=32, seed=0)), run.model_id)
        return run

    def step(self, run: Run, rows: int, length: int) -> simpy.Event:
        """Send a batch and its optimizer step; return when the step is answered."""
        began = self._world.env.now
        self._submit(ForwardBackward(), run.model_id, run.next_seq, _batch(rows, length), rows)
        done = self._submit(OptimStep(AdamParams()), run.model_id, run.next_seq + 1)
        run.next_seq += 2
        return self._timed(done, began)

    def close_run(self, run: Run) -> simpy.Event:
        """Release an adapter, and its sampler."""
        if run.sampler_id:
            self.close_sampler(run.sampler_id)
        return self._submit(ReleaseModel(), run.model_id)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def open_base(self) -> str:
        """Make a sampler of the base model."""
        sampler_id = self._name()
        self._submit(LoadSampler(sampler_id, None))
        return sampler_id

    def refresh(self, run: Run) -> None:
        """Sample from the weights as they are now; the sampler before is released."""
        before, run.sampler_id = run.sampler_id, self._name()
        self._submit(TakeSnapshot(run.sampler_id, run.sampler_id), run.model_id, run.next_seq)
        run.next_seq += 1
        if before:
            self.close_sampler(before)

    def close_sampler(self, sampler_id: str) -> None:
        """Release a sampler."""
        self._submit(ReleaseSampler(sampler_id))

    def sample(self, sampler_id: str, prompt: int, max_tokens: int, samples: int = 1) -> simpy.Event:
        """Ask for samples of a prompt of so many tokens; return when they are answered."""
        # Rising from anywhere: quickly made, and hardly ever the beginning of another prompt.
        start = self.random.randrange(1, 31_000)
        tokens = list(range(start, start + prompt))
        request = {
            "sampling_session_id": sampler_id,
            "seq_id": 0,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
            "num_samples": samples,
            "sampling_params": {"max_tokens": max_tokens},
        }
        body = json.dumps(request).encode()
        return self._timed(self._submit(Sample(sampler_id), body=body, units=samples), self._world.env.now)

    # -----------------------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        self._made += 1
        name = f"{self.owner}/{self._made}"
        self._world.ledger.owner_of[name] = self.owner
        return name

    def _submit(
        self,
        work: Work,
        model_id: str | None = None,
        seq_id: int | None = None,
        body: bytes | None = None,
        units: int = 0,
    ) -> simpy.Event:
        op = Operation(
            self._world.next_id(), work, MODEL, model_id, seq_id, body, owner=self.owner, weight=self._account.weight
        )
        return self._world.submit(op, units)

    def _timed(self, answer: simpy.Event, began: float) -> simpy.Event:
        assert answer.callbacks is not None
        answer.callbacks.append(lambda _: self._account.whole.append(self._world.env.now - began))
        return answer

    def live(self, life: Callable[[Tenant], Process], after_s: float) -> None:
        """Begin to do what its kind does, some time from now."""

        def process() -> Process:
            yield self._world.env.timeout(self.random.uniform(0.0, after_s))
            yield from life(self)

        self._world.env.process(process())


@lru_cache(maxsize=1024)
def _batch(rows: int, length: int) -> bytes:
    # The same for all: what is in it costs nobody anything, and whose it is stands beside it.
    datum = Datum(tokens=[1] * length, targets=[1] * length, weights=[1.0] * length)
    return encode_forward_backward_request(MODEL, 0, [datum] * rows, "cross_entropy")
