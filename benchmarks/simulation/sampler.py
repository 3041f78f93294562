"""The engine's sampler without tensors: the same schedule, cache and requests, and tokens that only take time."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence as ListLike

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.ledger import Ledger
from tinsmith.engine.adapters.snapshots import Snapshot
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.cache.block_manager import BlockManager
from tinsmith.engine.sampling.open_groups import Ended, OpenGroups
from tinsmith.engine.sampling.schedule import Plan, SampleSchedule, Slice
from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.sharing import EVEN, PassShare, Turn
from tinsmith.settings import Settings
from tinsmith.types.facts.base_model_info import BaseModelInfo

END = 0
# Samples are this share of their `max_tokens` long on average; their lengths are log-normal with sigma 1.
MEAN_SHARE = 0.5


class SimulatedSampler:
    """See the module; what it computes is charged to the owners of its sequences, in equal parts by row or token.

    Args:
        info: of the base model.
        settings: sizes, as the engine's.
        cache_tokens: tokens that the KV cache holds.
        costs: what a step takes.
        ledger: told of what is computed.
    """

    def __init__(
        self, info: BaseModelInfo, settings: Settings, cache_tokens: int, costs: Costs, ledger: Ledger
    ) -> None:
        blocks = BlockManager(cache_tokens // settings.kv_block_size)
        self.schedule = SampleSchedule(
            blocks, settings.kv_block_size, settings.prefill_tokens, settings.max_decode_batch
        )
        self._groups = OpenGroups(self.schedule, info, None, lambda snapshot: None)
        self._vocabulary = info.vocab_size
        self._costs = costs
        self._ledger = ledger
        self._versions: dict[str, int] = {}
        self._made = 0
        # Tokens that a sample will have, by its age.
        self._lengths: dict[tuple[int, int], int] = {}
        self.simulating_s = 0.0
        self.last: PassShare | None = None

    def make(self, sampler_id: str, version: int | None = None) -> None:
        """Take a sampler; equal versions are equal weights, 0 is the base alone."""
        self._made += 1
        self._versions[sampler_id] = self._made if version is None else version

    def release(self, sampler_id: str) -> None:
        """Forget a sampler."""
        del self._versions[sampler_id]

    @property
    def has_work(self) -> bool:
        """As the engine's sampler."""
        return self._groups.has_work

    def add(self, job: SampleJob) -> None:
        """As the engine's sampler."""
        snapshot = Snapshot(job.sampler_id, None, None, self._versions[job.sampler_id])
        self._groups.check_room(job.prompt)
        self._groups.open(job, job.params.seed or 0, snapshot)

    def cancel(self, request_id: str) -> None:
        """As the engine's sampler."""
        self._groups.cancel(request_id)

    def step(self, turn: Turn = EVEN) -> list[Ended]:
        """As the engine's sampler."""
        plan = self.schedule.next(turn)
        self.last = None if plan is None else plan.share
        began = time.process_time()
        if plan is not None:
            self._run(plan)
        ended = self._groups.take_ended()
        self.simulating_s += time.process_time() - began
        return ended

    def _run(self, plan: Plan) -> None:
        self.schedule.take_fresh()
        if plan.decode:
            self._charge_decode(plan.slices)
        else:
            self._charge_prefill(plan.slices)
        for part in plan.slices:
            self.schedule.computed(part)
        self._draw([part.sequence for part in plan.slices if part.reaches_end])

    # -- time ---------------------------------------------------------------------------------------------------------

    def _charge_decode(self, slices: ListLike[Slice]) -> None:
        cached = sum(part.start for part in slices)
        seconds = self._costs.decode(len(slices), _adapters(slices), cached)
        each = seconds / len(slices)
        owners: dict[str, float] = {}
        for part in slices:
            owner = part.sequence.group.job.owner
            owners[owner] = owners.get(owner, 0.0) + each
        self._ledger.decoded(len(slices))
        self._ledger.served(owners, seconds)

    def _charge_prefill(self, slices: ListLike[Slice]) -> None:
        tokens = sum(part.end - part.start for part in slices)
        seconds = self._costs.prefill(tokens, _adapters(slices))
        owners: dict[str, float] = {}
        again = 0
        for part in slices:
            sequence, taken = part.sequence, part.end - part.start
            owner = sequence.group.job.owner
            owners[owner] = owners.get(owner, 0.0) + seconds * taken / tokens
            self._ledger.began(sequence.group.job.request_id, sequence.sample)
            # One token was drawn before its request forked; one with more has had a place before.
            again += taken if len(sequence.logprobs) > 1 else 0
        self._ledger.computed_again(seconds * again / tokens)
        self._ledger.served(owners, seconds)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _draw(self, sequences: ListLike[Sequence]) -> None:
        leaders = [s for s in sequences if s.is_prompt_leader]
        drawing = [s for q in sequences for s in (self._groups.first_samples(q) if q.is_prompt_leader else [q])]
        self._ledger.drawn(len(drawing))
        for sequence in drawing:
            sequence.append(self._token(sequence), 0.0)
        for leader in leaders:
            self._groups.fork(leader)
            for child in leader.group.samples[1:]:
                if child.blocks or child.stop_reason is not None:
                    self._ledger.began(leader.group.job.request_id, child.sample)
        for sequence in drawing:
            if sequence.stop_reason is not None:
                del self._lengths[sequence.key]
            self._groups.settle(sequence)

    def _token(self, sequence: Sequence) -> int:
        drawn = len(sequence.logprobs) + 1
        length = self._lengths.get(sequence.key)
        if length is None:
            length = self._lengths[sequence.key] = _length(sequence)
        # Different sequences have different tokens, so that they share no more of the cache than their prompts.
        return END if drawn >= length else 1 + (sequence.stream + drawn) % (self._vocabulary - 1)


def _length(sequence: Sequence) -> int:
    limit = sequence.group.max_length - sequence.group.prompt_length
    mean = max(1.0, MEAN_SHARE * limit)
    # Of the sample's own stream: the same whatever runs beside it.
    return max(1, min(limit, round(random.Random(sequence.stream).lognormvariate(math.log(mean) - 0.5, 1.0))))


def _adapters(slices: ListLike[Slice]) -> int:
    return len({part.sequence.group.version for part in slices} - {0})
