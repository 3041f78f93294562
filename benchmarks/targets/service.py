"""Rows through HTTP and the official SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import tinker

from benchmarks.common import equal_lengths, stopwatch
from benchmarks.contestants import Batch, Contestant
from benchmarks.engine import sequences
from benchmarks.service import Target
from benchmarks.targets.bench import Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sizes import Sizes
from benchmarks.workloads import Driver, refresh, rl_iteration, tiny_steps


@contextmanager
def _client(target: Target, rank: int) -> Iterator[tuple[Driver, tinker.TrainingClient]]:
    with Driver(target.url, target.key, target.model, target.vocab_size) as driver:
        training = driver.training_client(rank)
        tiny_steps(driver, training, 2, ahead=True)
        yield driver, training


def tiny_step(bench: Bench, sizes: Sizes, target: float) -> Result:
    """forward_backward and optim_step of 8 tokens and both results, beside the same by the engine alone."""
    batch = sequences(equal_lengths(1, 8), bench.vocab_size)
    through, alone = [], []
    with bench.serve() as place, _client(place, bench.spot.rank) as (driver, training):
        bench.ours.call(engine_steps, bench.adapters[0], batch, 2)
        for _ in range(sizes.blocks):
            through += tiny_steps(driver, training, sizes.tiny_steps, ahead=True)
            alone += bench.ours.call(engine_steps, bench.adapters[0], batch, sizes.tiny_steps)
    ours, beside = (float(np.median(waits)) * 1e3 for waits in (through, alone))
    what = "tiny step through HTTP and the SDK, above the engine's own time"
    return Result("tiny-step", what, bench.label, "ms", ours, beside, ours - beside, target, at_most=True)


def engine_steps(contestant: Contestant, adapter: str, batch: Batch, steps: int) -> list[float]:
    """Return the seconds of each of some steps, in the process of the engine."""
    waits = []
    for _ in range(steps):
        with stopwatch() as watch:
            contestant.train({adapter: batch})
        waits.append(watch.seconds)
    return waits


def visible(bench: Bench, sizes: Sizes, target: float) -> Result:
    """From the result of a step to a sampler with its weights, beside the same calls of a service that does nothing."""
    waits, floor = [], []
    with bench.serve() as ours, bench.serve_nothing() as nothing, ExitStack() as stack:
        clients = [stack.enter_context(_client(place, bench.spot.rank)) for place in (ours, nothing)]
        for _ in range(sizes.blocks):
            for (driver, training), seen in zip(clients, (waits, floor), strict=True):
                for _ in range(sizes.tiny_steps):
                    tiny_steps(driver, training, 1, ahead=True)
                    seen.append(refresh(training)[1])
    value, beside = (float(np.median(side)) * 1e3 for side in (waits, floor))
    what = "from a step's result to a sampler with the new weights, HTTP and SDK, beside a service that does nothing"
    return Result("visible", what, bench.label, "ms", value, beside, value, target, at_most=True)


def rl(bench: Bench, sizes: Sizes, target: float) -> Result:
    """One iteration: refresh, groups of samples, one pass of importance sampling, a step."""
    with bench.serve() as place, _client(place, bench.spot.rank) as (driver, training):
        rl_iteration(driver, training, sizes.service)
        value = float(np.median([rl_iteration(driver, training, sizes.service) for _ in range(sizes.repeats)]))
    samples = sizes.service.prompts * sizes.service.samples
    what = f"an RL step through HTTP and the SDK, {samples} samples of {sizes.service.max_tokens} tokens"
    return Result("rl", what, bench.label, "s", value, None, value, target, at_most=True)
