"""Rows of sampling: beside `generate`, with several adapters, and with lengths that differ."""

from __future__ import annotations

import numpy as np

from benchmarks.common import equal_lengths, lognormal_lengths, random_tokens
from benchmarks.contestants import STATIC, Request
from benchmarks.engine import race, sequences
from benchmarks.targets.bench import Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sizes import Sizes

UNIT = "tokens/s"


def sampling(bench: Bench, sizes: Sizes, target: float) -> Result:
    """All prompts at once, beside `generate` on the same rows."""
    prompts = equal_prompts(bench, sizes)
    sides = (bench.ours, bench.plain)
    runs = [lambda side=side: side.sample(prompts, sizes.samples, sizes.max_tokens) for side in sides]
    ours, beside = (sizes.sampled / seconds for seconds in race(runs, "cpu", sizes.repeats))
    what = f"sampling, {sizes.prompts}x{sizes.samples}x{sizes.max_tokens}, beside `generate`"
    return Result("sampling", what, bench.label, UNIT, ours, beside, ours / beside, target)


def equal_prompts(bench: Bench, sizes: Sizes) -> list[list[int]]:
    """Return prompts of one length."""
    return sequences(equal_lengths(sizes.prompts, sizes.prompt_length - 1), bench.vocab_size, seed=1)


def adapters(bench: Bench, sizes: Sizes, target: float) -> Result:
    """A prompt for each adapter, beside all of them with one."""
    prompts = equal_prompts(bench, sizes)
    several, one = (
        [Request(ids, sizes.adapter_tokens, adapter=i * own, samples=sizes.samples) for i, ids in enumerate(prompts)]
        for own in (1, 0)
    )
    tokens = sizes.prompts * sizes.samples * sizes.adapter_tokens
    runs = [lambda work=work: bench.ours.sample_requests(work) for work in (several, one)]
    ours, beside = (tokens / seconds for seconds in race(runs, "cpu", sizes.adapter_repeats))
    what = f"sampling, {sizes.prompts} adapters, beside one"
    return Result("adapters", what, bench.label, UNIT, ours, beside, ours / beside, target)


def mixed(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Requests that end at different times, by their limits or by a token, beside batches that wait for their last."""
    requests = mixed_requests(bench.vocab_size, sizes)
    counts: dict[str, int] = {}

    def run(side: str) -> None:
        counts[side] = (bench.ours if side == "ours" else bench.plain).sample_requests(requests)

    # Each side ends where its own samples do, so that each has its own number of tokens.
    seconds = dict(
        zip(
            ("ours", "plain"),
            race([lambda: run("ours"), lambda: run("plain")], "cpu", sizes.repeats),
            strict=True,
        )
    )
    ours, beside = (counts[side] / seconds[side] for side in ("ours", "plain"))
    what = f"sampling, {sizes.requests} requests of mixed lengths and stops, beside `generate` on batches of {STATIC}"
    return Result("mixed", what, bench.label, UNIT, ours, beside, ours / beside, target)


def mixed_requests(vocab_size: int, sizes: Sizes) -> list[Request]:
    """Return requests with log-normal prompts and limits; the last few token ids end a sample."""
    rng = np.random.default_rng(3)
    stop = tuple(range(vocab_size - sizes.stops, vocab_size))
    prompts = lognormal_lengths(sizes.requests, sizes.prompt_length, sizes.longest, seed=1)
    limits = lognormal_lengths(sizes.requests, sizes.max_tokens / 2, 2 * sizes.max_tokens, seed=2)
    # Id 0 fills the rows of `generate`, and a prompt with a stop in it is none that people have.
    ids = [[1 + token for token in random_tokens(rng, n, vocab_size - sizes.stops - 1)] for n in prompts]
    return [Request(prompt, limit, stop) for prompt, limit in zip(ids, limits, strict=True)]
