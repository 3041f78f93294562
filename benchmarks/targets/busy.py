"""Rows beside another process that keeps one core busy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.common import equal_lengths
from benchmarks.engine import race, sequences
from benchmarks.targets.bench import Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sampling import equal_prompts
from benchmarks.targets.sizes import Sizes

UNIT = "tokens/s"


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy while the body runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _beside(work: Callable[[], object], sizes: Sizes) -> tuple[float, float]:
    """Return seconds of one piece of work beside a busy process and with all cores idle."""

    def idle() -> None:
        for _ in range(sizes.in_a_row):
            work()

    def busy() -> None:
        with busy_process():
            idle()

    beside, calm = race([busy, idle], "cpu", sizes.repeats)
    return beside / sizes.in_a_row, calm / sizes.in_a_row


def training(bench: Bench, sizes: Sizes, target: float) -> Result:
    """A training step."""
    count, length = sizes.equal
    batch = sequences(equal_lengths(count, length), bench.vocab_size)
    seconds = _beside(lambda: bench.ours.train({bench.adapters[0]: batch}), sizes)
    busy, idle = (count * length / s for s in seconds)
    what = f"training, {count}x{length}, one core busy, beside idle cores"
    return Result("busy-training", what, bench.label, UNIT, busy, idle, busy / idle, target)


def sampling(bench: Bench, sizes: Sizes, target: float) -> Result:
    """A quarter of the tokens of the row `sampling`."""
    prompts, max_tokens = equal_prompts(bench, sizes), sizes.max_tokens // 4
    seconds = _beside(lambda: bench.ours.sample(prompts, sizes.samples, max_tokens), sizes)
    busy, idle = (sizes.prompts * sizes.samples * max_tokens / s for s in seconds)
    what = f"sampling, {sizes.prompts}x{sizes.samples}x{max_tokens}, one core busy, beside idle cores"
    return Result("busy-sampling", what, bench.label, UNIT, busy, idle, busy / idle, target)
