"""Rows of training: beside the plain loop, and one tenant beside eight."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.common import equal_lengths, lognormal_lengths
from benchmarks.contestants import Batch
from benchmarks.engine import race, sequences, shares
from benchmarks.targets.bench import Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sizes import Sizes

UNIT = "tokens/s"


def equal(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Sequences of 256 tokens."""
    return _equal(bench, sizes.equal, sizes, target)


def long(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Sequences of 512 tokens."""
    return _equal(bench, sizes.long, replace(sizes, repeats=min(3, sizes.repeats)), target)


def _equal(bench: Bench, shape: tuple[int, int], sizes: Sizes, target: float) -> Result:
    count, length = shape
    batch = sequences(equal_lengths(count, length), bench.vocab_size)
    # Each dtype of the plain loop, of which the best counts: where bfloat16 is emulated it is the slower one.
    plains = list({id(side): side for side in (bench.plain, bench.plain_float32)}.values())
    # The engine first: `bench.plain` starts from its adapters.
    sides = [bench.ours, *plains]
    first = bench.job.names[0]
    ours_s, *plain_s = race([lambda side=side: side.train({first: batch}) for side in sides], "cpu", sizes.repeats)
    ours, beside = count * length / ours_s, count * length / min(plain_s)
    what = f"training, {count}x{length}, beside transformers + PEFT"
    return Result("equal", what, bench.label, UNIT, ours, beside, ours / beside, target)


def lognormal(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Lengths as chats have them, beside the padded loop in the same dtype."""
    batches: list[Batch] = [
        sequences(lognormal_lengths(sizes.spread, sizes.mean, sizes.longest, seed, sigma=0.7), bench.vocab_size, seed)
        for seed in range(sizes.batches)
    ]
    tokens = sum(len(ids) - 1 for batch in batches for ids in batch)
    sides, first = (bench.ours, bench.plain), bench.job.names[0]
    runs = [lambda side=side: side.train_in_turn(batches, first) for side in sides]
    ours, beside = (tokens / seconds for seconds in race(runs, "cpu", sizes.repeats))
    what = f"training, log-normal lengths, {sizes.spread} rows, beside the padded loop"
    return Result("lognormal", what, bench.label, UNIT, ours, beside, ours / beside, target)


def tenants(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Everyone with a share of the batch, beside one with all of it."""
    count, length = sizes.equal
    batch: Batch = sequences(equal_lengths(count, length), bench.vocab_size)
    everyone = shares(batch, bench.adapters)
    alone: dict[str, Batch] = {bench.adapters[0]: batch}
    runs = [lambda work=work: bench.ours.train(work) for work in (everyone, alone)]
    together, one = (count * length / seconds for seconds in race(runs, "cpu", sizes.repeats))
    share = f"{count // len(everyone)}x{length}"
    what = f"training, {len(everyone)} tenants with {share} each, beside one with {count}x{length}"
    return Result("tenants", what, bench.label, UNIT, together, one, together / one, target)
