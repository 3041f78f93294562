"""The sampler: requests in, one bounded step at a time, responses out."""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor

from tinsmith.engine.adapters.snapshots import Snapshot, Snapshots
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.sampling.block_manager import BlockManager
from tinsmith.engine.sampling.finished_group import make_response
from tinsmith.engine.sampling.kv_cache import KVCache, KVShape, affordable_blocks
from tinsmith.engine.sampling.next_tokens import next_tokens
from tinsmith.engine.sampling.prompt_scores import PromptScores
from tinsmith.engine.sampling.randomness import stream_base
from tinsmith.engine.sampling.sample_pass import SamplePass
from tinsmith.engine.sampling.schedule import Plan, SampleSchedule, Slice
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sampling.stops import stop_rule
from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_sampling
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.outputs import SampleResponse

log = logging.getLogger(__name__)

# Logits [rows, V] that are turned into float64 probabilities at once: 128 MiB each of a handful of temporaries.
_CELLS_AT_ONCE = 2**24


class Sampler:
    """Samples from one base model with any mix of adapters (see `step`).

    Args:
        base: what samples; its context and its end-of-turn tokens bound every sample.
        snapshots: the adapters.
        settings: sizes and limits.
    """

    def __init__(self, base: BaseModel, snapshots: Snapshots, settings: Settings) -> None:
        self._base = base
        self._snapshots = snapshots
        self._settings = settings
        shape = KVShape(base.info.num_layers, base.kv_heads, base.head_dim, base.dtype)
        blocks = affordable_blocks(shape, base.device, settings)
        self.cache = KVCache(shape, settings.kv_block_size, blocks, base.device)
        self.schedule = SampleSchedule(
            BlockManager(blocks), settings.kv_block_size, settings.prefill_tokens, settings.max_decode_batch
        )
        self._groups: dict[str, tuple[SampleGroup, Snapshot]] = {}
        self._rows_at_once = max(1, _CELLS_AT_ONCE // base.info.vocab_size)
        self._arrivals = 0
        self._finished: list[tuple[str, SampleResponse | Exception]] = []

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to return."""
        return bool(self._groups or self._finished)

    def add(self, job: SampleJob) -> None:
        """Queue a request.

        Raises:
            UserError: naming the field that is wrong, or an unknown sampler.
            ValueError: the request id is in use, or the seed was not set.
        """
        if job.request_id in self._groups:
            raise ValueError(f"request_id: got {job.request_id!r}, expected one that is not in use")
        if job.params.seed is None:
            raise ValueError(
                "sampling_params.seed: got None, expected a number: the service sets one where it is absent"
            )
        # Again, although the service's door has asked the same function: an embedded engine has no door.
        check_sampling(job, self._base.info, self._settings)
        self._check_room(job.prompt)
        # Everything that can be refused is behind us: what is acquired here is given back in `_drop`.
        snapshot = self._snapshots.acquire(job.sampler_id)
        group = self._make_group(job, job.params.seed, snapshot)
        self._arrivals += 1
        self._groups[job.request_id] = (group, snapshot)
        self.schedule.add(group.samples[0])

    def cancel(self, request_id: str) -> None:
        """Drop a request; nothing is returned for it. Unknown and finished ones are ignored."""
        if request_id in self._groups:
            self._drop(self._groups[request_id][0])

    def step(self) -> list[tuple[str, SampleResponse | Exception]]:
        """Compute one prefill chunk or one token of every running sequence; return the requests that ended.

        A request whose logits are not finite ends with a UserError, its neighbours go on. If the pass itself fails,
        the requests in it end with its error and the others go on.
        """
        plan = self.schedule.next()
        if plan is not None:
            try:
                self._run(plan)
            except Exception as error:
                log.exception("sampling step of %d sequences failed", len(plan.slices))
                self._fail_all(plan, error)
        finished, self._finished = self._finished, []
        return finished

    def _check_room(self, tokens: list[int]) -> None:
        if len(tokens) > self.schedule.token_capacity:
            held = f"at most {self.schedule.token_capacity}, which the KV cache holds (kv_cache_mb)"
            raise invalid("prompt and completion", f"{len(tokens)} tokens", held)

    def _make_group(self, job: SampleJob, seed: int, snapshot: Snapshot) -> SampleGroup:
        # More than the context holds is cut, not refused: `max_tokens` says at most.
        room = self._base.info.context_length - len(job.prompt)
        wanted = room if job.params.max_tokens is None else min(job.params.max_tokens, room)
        group = SampleGroup(
            job=job,
            seed=seed,
            order=self._arrivals,
            slot=snapshot.slot,
            version=snapshot.version,
            max_length=len(job.prompt) + wanted,
            scores=PromptScores.wanted(job, seed),
            unfinished=job.num_samples,
        )
        group.samples.append(self._make_sample(group, 0))
        return group

    def _make_sample(self, group: SampleGroup, sample: int) -> Sequence:
        tokenizer = self._base.tokenizer
        decode = None if tokenizer is None else partial(tokenizer.decode, skip_special_tokens=False)
        rule = stop_rule(group.job.params.stop, self._base.info.eos_token_ids, decode)
        return Sequence(group, sample, list(group.job.prompt), rule, stream_base(group.seed, sample))

    def _run(self, plan: Plan) -> None:
        # Equal adapters side by side, so that each is one span of the stream.
        slices = sorted(plan.slices, key=lambda s: s.sequence.group.adapter_key)
        self.cache.prepare(self.schedule.take_fresh())
        done = SamplePass(self._base, self.cache, slices, plan.decode)
        # Only now: had the pass failed, the blocks would hold nothing that others may find.
        for part in slices:
            self.schedule.computed(part)
        if not plan.decode:
            self._score_prompts(slices, done)
        ends = [i for i, part in enumerate(slices) if part.reaches_end and self._is_live(part.sequence.group)]
        for start in range(0, len(ends), self._rows_at_once):
            some = ends[start : start + self._rows_at_once]
            # Chunked, because [sequences, V] in float64 with its temporaries would outgrow the model itself.
            self._draw([slices[i].sequence for i in some], done.last_logits(some))

    def _score_prompts(self, slices: list[Slice], done: SamplePass) -> None:
        chunk = self._rows_at_once
        for index, part in enumerate(slices):
            group = part.sequence.group
            if group.scores is None or not part.sequence.is_prompt_leader:
                continue
            rows = group.scores.rows(part.start, part.end)
            for first in range(rows.start, rows.stop, chunk):
                count = min(chunk, rows.stop - first)
                if not group.scores.take(done.inner_logits(index, first - part.start, count), self._base.products.tile):
                    self._fail(group, _not_finite(group))
                    break

    def _draw(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Draw the next token of each sequence, of all samples where it stands for a whole request."""
        drawing: list[Sequence] = []
        rows: list[int] = []
        leaders = [s for s in sequences if s.is_prompt_leader]
        for row, sequence in enumerate(sequences):
            samples = self._samples_of(sequence) if sequence.is_prompt_leader else [sequence]
            drawing += samples
            rows += [row] * len(samples)
        for start in range(0, len(drawing), self._rows_at_once):
            end = start + self._rows_at_once
            some, index = drawing[start:end], rows[start:end]
            # Without leaders each row stands for one sequence, and no copy of the logits is needed.
            whole = len(index) == logits.shape[0] and not leaders
            self._append(some, logits if whole else logits[torch.tensor(index, device=logits.device)])
        # Forked after drawing, so that a sample which ended with its first token takes no blocks.
        for leader in leaders:
            children = [s for s in leader.group.samples[1:] if s.stop_reason is None]
            if self._is_live(leader.group):
                self.cache.copy(self.schedule.fork(leader, children))
        for sequence in drawing:
            self._settle(sequence)

    def _samples_of(self, leader: Sequence) -> list[Sequence]:
        group = leader.group
        # Made only now: until the prompt is computed, one sequence stands for all of them in the schedule.
        group.samples += [self._make_sample(group, n) for n in range(1, group.job.num_samples)]
        return group.samples

    def _append(self, sequences: list[Sequence], logits: Tensor) -> None:
        for sequence, drawn in zip(sequences, next_tokens(sequences, logits, self._base.products.tile), strict=True):
            group = sequence.group
            # A sample that failed has ended its whole request, of which others may stand in this batch.
            if not self._is_live(group):
                continue
            if drawn.token is None:
                self._fail(group, _not_finite(group))
                continue
            sequence.append(drawn.token, drawn.logprob, drawn.top)

    def _settle(self, sequence: Sequence) -> None:
        """After a token: finish the sequence, fail its request, or let it run on."""
        group = sequence.group
        if not self._is_live(group):
            return
        if sequence.stop_reason is not None:
            self.schedule.remove(sequence)
            group.unfinished -= 1
            if not group.unfinished:
                self._finish(group)
            return
        # `max_tokens` may be absent, so a sequence is not refused for what it could grow to, only for what it has.
        try:
            self._check_room(sequence.tokens)
        except UserError as error:
            self._fail(group, error)

    def _is_live(self, group: SampleGroup) -> bool:
        return group.job.request_id in self._groups

    def _finish(self, group: SampleGroup) -> None:
        self._drop(group)
        self._finished.append((group.job.request_id, make_response(group)))

    def _fail(self, group: SampleGroup, error: Exception) -> None:
        self._drop(group)
        self._finished.append((group.job.request_id, error))

    def _fail_all(self, plan: Plan, error: Exception) -> None:
        for part in plan.slices:
            if self._is_live(part.sequence.group):
                self._fail(part.sequence.group, error)

    def _drop(self, group: SampleGroup) -> None:
        for sequence in group.samples:
            # One that ended has left the schedule, unless this request failed before it was settled.
            if sequence.blocks or sequence.stop_reason is None:
                self.schedule.remove(sequence)
        _, snapshot = self._groups.pop(group.job.request_id)
        self._snapshots.done(snapshot)


def _not_finite(group: SampleGroup) -> UserError:
    return invalid(f"sampler {group.job.sampler_id}", "logits that are not finite", "weights that did not diverge")
