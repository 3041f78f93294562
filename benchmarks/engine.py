"""Put the engine beside a plain transformers + PEFT loop on the same checkpoint, in the same run.

python -m benchmarks.engine                                              # the embedded model, CPU, float32
python -m benchmarks.engine --model FOLDER_OR_HUB_ID --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.common import (
    Column,
    conditions,
    equal_lengths,
    lognormal_lengths,
    random_tokens,
    show,
    stopwatch,
    write_json,
)
from benchmarks.contestants import Batch, Contestant, Job, TinsmithEngine, TransformersPeft
from tinsmith.models import path

_SETTLE_S = 0.05


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        batch: sequences of a step; a share of them each where several adapters train.
        length: tokens of a sequence; of log-normal ones the mean.
        small: tokens of a short sequence.
        longest: longest log-normal sequence, tokens.
        prompts: prompts that are sampled at once.
        prompt_length: tokens.
        samples: completions of each prompt.
        max_tokens: tokens of each completion.
        repeats: every number is the median of so many runs, after one that warms up; the sides take turns.
    """

    batch: int = 32
    length: int = 128
    small: int = 16
    longest: int = 1000
    prompts: int = 8
    prompt_length: int = 32
    samples: int = 4
    max_tokens: int = 64
    repeats: int = 5


QUICK = Sizes(batch=4, length=8, small=4, longest=24, prompts=2, prompt_length=4, samples=2, max_tokens=4, repeats=1)


def sequences(lengths: list[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Return sequences of random ids, each one id longer than its length: the last is only predicted."""
    rng = np.random.default_rng(seed)
    return [random_tokens(rng, n + 1, vocab_size) for n in lengths]


def shares(batch: Batch, names: list[str]) -> dict[str, Batch]:
    """Deal a batch out to adapters."""
    return {name: batch[i :: len(names)] for i, name in enumerate(names)}


def race(runs: Sequence[Callable[[], object]], device: str, repeats: int) -> list[float]:
    """Return each side's median seconds; the sides take turns, so that a busy machine is busy for all of them.

    Args:
        runs: what is timed, one for each side; each runs once beforehand.
        device: waited for before and after a run.
        repeats: how often each is timed.
    """
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for times, run in zip(seconds, runs, strict=True):
            _synchronize(device)
            # Threads that the side before has left waiting still spin for a moment.
            time.sleep(_SETTLE_S)
            with stopwatch() as watch:
                run()
                _synchronize(device)
            times.append(watch.seconds)
    return [float(np.median(times)) for times in seconds]


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measure(sides: Sequence[Contestant], job: Job, sizes: Sizes, vocab_size: int) -> list[Column]:
    """Run every workload on all sides."""
    columns = [Column(side.system) for side in sides]

    def workload(name: str, tokens: int, run: Callable[[Contestant], object]) -> None:
        times = race([partial(run, side) for side in sides], job.device, sizes.repeats)
        for column, seconds in zip(columns, times, strict=True):
            column.add(name, tokens / seconds, "tokens/s")

    first = job.names[0]
    trained = sizes.batch * sizes.length
    equal = sequences(equal_lengths(sizes.batch, sizes.length), vocab_size)
    workload("training, equal lengths", trained, lambda side: side.train({first: equal}))
    spread = sequences(lognormal_lengths(sizes.batch, sizes.length, sizes.longest), vocab_size)
    tokens = sum(len(ids) - 1 for ids in spread)
    workload("training, log-normal lengths", tokens, lambda side: side.train({first: spread}))
    tiny = sequences(equal_lengths(job.adapters, sizes.small), vocab_size)
    for batch, what in (
        (equal, f"{job.adapters} adapters"),
        (tiny, f"{job.adapters} adapters, one short sequence each"),
    ):
        everyone = shares(batch, job.names)
        turns = [{name: share} for name, share in everyone.items()]
        tokens = sum(len(ids) - 1 for ids in batch)
        workload(f"training, {what}, at once", tokens, lambda side, all_=everyone: side.train(all_))
        workload(f"training, {what}, in turns", tokens, lambda side, each=turns: [side.train(one) for one in each])
    prompts = sequences(equal_lengths(sizes.prompts, sizes.prompt_length - 1), vocab_size, seed=1)
    tokens = sizes.prompts * sizes.samples * sizes.max_tokens
    workload("sampling", tokens, lambda side: side.sample(prompts, sizes.samples, sizes.max_tokens))
    return columns


def check_losses(sides: Sequence[Contestant], job: Job, sizes: Sizes, vocab_size: int) -> float:
    """Train all sides by one step; return the largest relative difference of their losses.

    Raises:
        RuntimeError: they differ by more than rounding, so that a comparison of speed would mean nothing.
    """
    batch = sequences(lognormal_lengths(sizes.batch, sizes.length, sizes.longest), vocab_size, seed=2)
    wanted, *others = [side.train(shares(batch, job.names)) for side in sides]
    difference = max(worst_difference(found, wanted) for found in others)
    limit = 1e-5 if job.dtype in ("float32", "float64") else 2e-2
    if not difference <= limit:
        raise RuntimeError(f"losses differ by {difference:.2g}, expected at most {limit:.2g}: nothing was compared")
    return difference


def worst_difference(found: dict[str, float], wanted: dict[str, float]) -> float:
    """Return the largest relative difference of two sides' losses."""
    return max(abs(found[name] - value) / abs(value) for name, value in wanted.items())


def compare(job: Job, sizes: Sizes, batch_invariant: bool) -> tuple[list[Column], dict[str, object]]:
    """Run the sides; return the plain loop's column first, and facts about the comparison.

    Args:
        job: what they work on.
        sizes: how much.
        batch_invariant: whether the engine takes part a second time, in that mode.
    """
    ours = TinsmithEngine(job)  # first: it writes the adapters that the other side starts from
    sides: list[Contestant] = [TransformersPeft(job), ours]
    if batch_invariant:
        sides.append(TinsmithEngine(job, batch_invariant=True))
    difference = check_losses(sides, job, sizes, ours.vocab_size)
    return measure(sides, job, sizes, ours.vocab_size), {"loss_difference": f"{difference:.1e}"}


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(path()), help="folder or hub id; default: the embedded model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64"])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--batch", type=int, default=Sizes.batch)
    parser.add_argument("--length", type=int, default=Sizes.length)
    parser.add_argument("--longest", type=int, default=Sizes.longest)
    parser.add_argument("--batch-invariant", action="store_true", help="the engine once more, in that mode")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes(batch=args.batch, length=args.length, longest=args.longest)
    transformers.utils.logging.disable_progress_bar()
    facts = conditions(
        model=Path(args.model).name,
        device=args.device,
        dtype=args.dtype,
        rank=args.rank,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch:
        job = Job(args.model, args.device, args.dtype, args.rank, args.adapters, Path(scratch))
        columns, found = compare(job, sizes, args.batch_invariant)
    facts |= {**found, "sizes": vars(sizes)}
    show("Engine benchmark", columns, baseline=columns[0].system, facts=facts)
    if args.json:
        write_json(args.json, columns, facts)


if __name__ == "__main__":
    main()
