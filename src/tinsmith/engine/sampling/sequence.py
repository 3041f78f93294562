"""What the sampler knows about a request and about each of its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.cache.block_manager import first_digest, next_digest
from tinsmith.engine.sampling.prompt_scores import PromptScores
from tinsmith.engine.sampling.stops import StopRule
from tinsmith.types.outputs import StopReason


@dataclass(eq=False, slots=True)
class SampleGroup:
    """One request: a prompt and its samples.

    Attributes:
        job: what was asked for.
        seed: of all its draws.
        order: place in the order of arrival.
        slot: adapter; None for the base alone.
        version: identity of the adapter's weights; keys and values are shared under one version only.
        max_length: tokens of prompt and completion together at which a sample ends.
        scores: what is collected about the prompt; None where nothing was asked for.
        make: makes a sample, given the group and the sample's number.
        samples: of the request, as far as they have begun; the first computes the prompt for all.
        prompt_cached: prompt tokens found in the cache when the prompt was first admitted.
        unfinished: samples that have not ended, begun or not.
    """

    job: SampleJob
    seed: int
    order: int
    slot: Slot | None
    version: int
    max_length: int
    scores: PromptScores | None
    make: Callable[[SampleGroup, int], Sequence]
    samples: list[Sequence] = field(default_factory=list)
    prompt_cached: int | None = None
    unfinished: int = 0

    @property
    def to_begin(self) -> int:
        """Samples that have not begun."""
        return self.job.num_samples - len(self.samples)

    def begin_next(self) -> Sequence:
        """Begin the next sample; there must be one to begin."""
        self.samples.append(self.make(self, len(self.samples)))
        return self.samples[-1]

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.job.prompt)


@dataclass(eq=False, slots=True)
class Sequence:
    """One sample: its tokens and where their keys and values are.

    Attributes:
        group: the request.
        sample: index in the request.
        tokens: prompt and what was generated.
        stop: decides after each generated token.
        stream: base of its random streams.
        logprobs: of the generated tokens.
        top: the likeliest tokens at each generated position: ids and logprobs.
        stop_reason: None while it runs.
        computed: leading tokens whose keys and values are in the cache.
        blocks: of the cache, in order.
        digests: of its full blocks, as far as they were needed.
        registered: leading blocks that were made known to the prefix cache.
    """

    group: SampleGroup
    sample: int
    tokens: list[int]
    stop: StopRule
    stream: int
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    stop_reason: StopReason | None = None
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    registered: int = 0

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.group.job.owner

    @property
    def key(self) -> tuple[int, int]:
        """Age: the smaller, the earlier it is served."""
        return self.group.order, self.sample

    @property
    def is_prompt_leader(self) -> bool:
        """Whether it still stands for all samples of its request."""
        return self.sample == 0 and len(self.tokens) == self.group.prompt_length

    def reusable_tokens(self) -> int:
        """Leading tokens that may come from the cache; those whose logits are wanted are computed anew."""
        # The last token is always computed: the cache keeps keys and values, not the logits that the next one needs.
        reusable = len(self.tokens) - 1
        if self.is_prompt_leader and self.group.scores is not None:
            reusable = min(reusable, self.group.scores.next_row)
        return reusable

    def digest_blocks(self, block_size: int, blocks: int) -> list[bytes]:
        """Return the digests of the first `blocks` blocks, all of them full."""
        while len(self.digests) < blocks:
            # Chained, so that a digest stands for everything before its block as well.
            start = len(self.digests) * block_size
            previous = self.digests[-1] if self.digests else first_digest(self.group.version)
            self.digests.append(next_digest(previous, self.tokens[start : start + block_size]))
        return self.digests[:blocks]

    def append(self, token: int, logprob: float, top: tuple[list[int], list[float]] | None = None) -> None:
        """Take a generated token, with the likeliest where they are wanted; sets `stop_reason` where it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if top is not None:
            self.top.append(top)
        # The stop first: a token that ends the text and fills the context has ended the text.
        if self.stop.push(token):
            self.stop_reason = "stop"
        elif len(self.tokens) >= self.group.max_length:
            self.stop_reason = "length"


def age(sequence: Sequence) -> tuple[int, int]:
    """Return what sorts sequences by their age, those first that are served first."""
    return sequence.key
