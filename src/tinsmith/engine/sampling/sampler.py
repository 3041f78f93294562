"""The sampler: requests in, one bounded step at a time, responses out."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.adapters.snapshots import Snapshot, Snapshots
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.sampling.block_manager import BlockManager
from tinsmith.engine.sampling.distribution import Shaping, choose, shaped_logprobs, top_logprobs
from tinsmith.engine.sampling.kv_cache import KVCache, KVShape, affordable_blocks
from tinsmith.engine.sampling.prompt_scores import PromptScores, fill_top, top_table
from tinsmith.engine.sampling.randomness import stream_base, stream_keys
from tinsmith.engine.sampling.sample_checks import check_job
from tinsmith.engine.sampling.sample_pass import SamplePass
from tinsmith.engine.sampling.schedule import Plan, SampleSchedule, Slice
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sampling.stops import stop_rule
from tinsmith.settings import Settings
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.outputs import SampledSequence, SampleResponse

log = logging.getLogger(__name__)

# Logits that are turned into float64 probabilities at once: 128 MiB each of a handful of temporaries.
_CELLS_AT_ONCE = 2**24


class Sampler:
    """Samples from one base model with any mix of adapters (see `step`).

    Args:
        base: the model.
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
        check_job(job, self._base.info, self._settings)
        self._check_room(job.prompt)
        snapshot = self._snapshots.acquire(job.sampler_id)
        try:
            group = self._make_group(job, job.params.seed, snapshot)
        except UserError:
            self._snapshots.done(snapshot)
            raise
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
        slices = sorted(plan.slices, key=lambda s: s.sequence.group.adapter_key)
        self.cache.prepare(self.schedule.take_fresh())
        done = SamplePass(self._base, self.cache, slices, plan.decode)
        for part in slices:
            self.schedule.computed(part)
        if not plan.decode:
            self._score_prompts(slices, done)
        ends = [i for i, part in enumerate(slices) if part.reaches_end and self._is_live(part.sequence.group)]
        for start in range(0, len(ends), self._rows_at_once):
            some = ends[start : start + self._rows_at_once]
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
                logits = done.inner_logits(index, first - part.start, count)
                if not bool(_finite_rows(logits).all()):
                    self._fail(group, _not_finite(group))
                    break
                group.scores.take(logits)

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
            whole = len(index) == logits.shape[0] and not leaders
            self._append(some, logits if whole else logits[torch.tensor(index, device=logits.device)])
        for leader in leaders:
            children = [s for s in leader.group.samples[1:] if s.stop_reason is None]
            if self._is_live(leader.group):
                self.cache.copy(self.schedule.fork(leader, children))
        for sequence in drawing:
            self._settle(sequence)

    def _samples_of(self, leader: Sequence) -> list[Sequence]:
        group = leader.group
        group.samples += [self._make_sample(group, n) for n in range(1, group.job.num_samples)]
        return group.samples

    def _append(self, sequences: list[Sequence], logits: Tensor) -> None:
        finite = _finite_rows(logits)
        logits = logits.where(finite[:, None], 0.0)
        params = [s.group.job.params for s in sequences]
        shaping = Shaping([p.temperature for p in params], [p.top_k for p in params], [p.top_p for p in params])
        logprobs = shaped_logprobs(logits, shaping)
        bases = torch.tensor([s.stream for s in sequences], device=logits.device)
        positions = torch.tensor([len(s.tokens) for s in sequences], device=logits.device)
        tokens = choose(logits, logprobs, shaping, stream_keys(bases, positions))
        chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
        # One transfer; ids are exact in float64.
        ids, values, sound = torch.stack([tokens.to(chosen.dtype), chosen, finite.to(chosen.dtype)]).tolist()
        self._append_top(sequences, logprobs)
        for sequence, token, logprob, is_finite in zip(sequences, ids, values, sound, strict=True):
            if not self._is_live(sequence.group):
                continue
            if not is_finite:
                self._fail(sequence.group, _not_finite(sequence.group))
                continue
            sequence.append(int(token), logprob)

    def _append_top(self, sequences: list[Sequence], logprobs: Tensor) -> None:
        asking = [i for i, s in enumerate(sequences) if s.group.job.topk_sample_logprobs]
        if not asking:
            return
        k = min(max(sequences[i].group.job.topk_sample_logprobs for i in asking), logprobs.shape[-1])
        ids, values = top_logprobs(logprobs[torch.tensor(asking, device=logprobs.device)], k)
        for i, row_ids, row_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            own = sequences[i].group.job.topk_sample_logprobs
            sequences[i].top.append((row_ids[:own], row_values[:own]))

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
        try:
            self._check_room(sequence.tokens)
        except UserError as error:
            self._fail(group, error)

    def _is_live(self, group: SampleGroup) -> bool:
        return group.job.request_id in self._groups

    def _finish(self, group: SampleGroup) -> None:
        job = group.job
        response = SampleResponse(
            [_sampled(s) for s in group.samples], prompt_cache_hit_tokens=group.prompt_cached or 0
        )
        if group.scores is not None:
            group.scores.fill(response)
        self._drop(group)
        self._finished.append((job.request_id, response))

    def _fail(self, group: SampleGroup, error: Exception) -> None:
        self._drop(group)
        self._finished.append((group.job.request_id, error))

    def _fail_all(self, plan: Plan, error: Exception) -> None:
        for part in plan.slices:
            if self._is_live(part.sequence.group):
                self._fail(part.sequence.group, error)

    def _drop(self, group: SampleGroup) -> None:
        for sequence in group.samples:
            if sequence.blocks or sequence.stop_reason is None:
                self.schedule.remove(sequence)
        _, snapshot = self._groups.pop(group.job.request_id)
        self._snapshots.done(snapshot)


def _sampled(sequence: Sequence) -> SampledSequence:
    assert sequence.stop_reason is not None
    table = None
    k = sequence.group.job.topk_sample_logprobs
    if k:
        table = top_table(len(sequence.top), k)
        for row, (ids, logprobs) in enumerate(sequence.top):
            fill_top(table, row, np.array([ids]), np.array([logprobs]))
    generated = sequence.tokens[sequence.group.prompt_length :]
    return SampledSequence(sequence.stop_reason, generated, sequence.logprobs, table)


def _finite_rows(logits: Tensor) -> Tensor:
    # NaN and +inf reach the largest; -inf alone would be a token that cannot be drawn, which is sound.
    return logits.amax(-1).isfinite()


def _not_finite(group: SampleGroup) -> UserError:
    return invalid(f"sampler {group.job.sampler_id}", "logits that are not finite", "weights that did not diverge")
