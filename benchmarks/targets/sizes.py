"""How much of everything the rows of the table compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.workloads import QUICK as QUICK_SERVICE
from benchmarks.workloads import USUAL as USUAL_SERVICE
from benchmarks.workloads import Sizes as ServiceSizes


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run.

    Attributes:
        equal: sequences and tokens of a training step on equal lengths.
        long: the same, longer; the memory of a step is measured on it too.
        spread: sequences of a step on log-normal lengths.
        median: of those lengths, tokens; sigma is 0.7.
        longest: of those lengths, tokens.
        batches: steps on such lengths that are timed together.
        prompts: prompts that are sampled at once.
        prompt_length: tokens.
        samples: completions of each.
        max_tokens: tokens of each.
        requests: requests of mixed lengths.
        stops: token ids that end one of those.
        tiny_steps: steps through HTTP in a block, and by the engine alone.
        blocks: of such steps, in turns.
        adapter_tokens: tokens of each where every prompt has an adapter of its own.
        adapter_repeats: runs of that; more than of others, since a run is short, the two sides differ by little, and a
            shared host's speed changes from one second to the next.
        in_a_row: how often work is repeated in a run beside a busy process, since the engine takes a second to notice.
        repeats: every number is the median of so many runs.
        service: sizes of an RL iteration.
    """

    equal: tuple[int, int] = (16, 256)
    long: tuple[int, int] = (32, 512)
    spread: int = 8
    median: int = 96
    longest: int = 512
    batches: int = 4
    prompts: int = 8
    prompt_length: int = 32
    samples: int = 8
    max_tokens: int = 128
    requests: int = 48
    stops: int = 64
    tiny_steps: int = 10
    blocks: int = 8
    adapter_tokens: int = 128
    adapter_repeats: int = 15
    in_a_row: int = 3
    repeats: int = 5
    service: ServiceSizes = USUAL_SERVICE

    @property
    def sampled(self) -> int:
        """Tokens of the equal samples together."""
        return self.prompts * self.samples * self.max_tokens

    @property
    def mean(self) -> float:
        """Of the log-normal lengths before they are cut, tokens."""
        return self.median * math.exp(0.7**2 / 2)


USUAL = Sizes()
# A step of the larger model takes ten times as long; what is timed for so long needs fewer repeats.
LARGE = Sizes(adapter_tokens=64, adapter_repeats=7, in_a_row=1, repeats=3)
QUICK = Sizes(
    equal=(8, 8),
    long=(16, 64),
    spread=2,
    median=6,
    longest=24,
    batches=1,
    prompt_length=4,
    samples=2,
    max_tokens=4,
    adapter_tokens=4,
    adapter_repeats=1,
    requests=4,
    stops=4,
    tiny_steps=2,
    blocks=1,
    repeats=1,
    service=QUICK_SERVICE,
)
