"""The sampler: requests in, one bounded step at a time, responses out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from tinsmith.engine.adapters.memory import SlotMemory
from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.adapters.snapshots import Snapshots
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.engine.sampling.cache.block_manager import BlockManager
from tinsmith.engine.sampling.cache.kv_cache import KVCache, KVShape, affordable_blocks
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.engine.sampling.drawing.next_tokens import Drawings, NextToken
from tinsmith.engine.sampling.open_groups import Ended, OpenGroups
from tinsmith.engine.sampling.sample_pass import PrefillPass, decode
from tinsmith.engine.sampling.schedule import Plan, SampleSchedule, Slice
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sharing import EVEN, PassShare, Turn
from tinsmith.engine.threads import THREADS, Grain
from tinsmith.engine.transfers import to_device
from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_sampling
from tinsmith.types.errors import UserError, invalid

log = logging.getLogger(__name__)

# Logits [rows, V] that are turned into float64 probabilities at once: 128 MiB each of a handful of temporaries.
_CELLS_AT_ONCE = 2**24


class Sampler:
    """Samples from one base model with any mix of adapters (see `step`).

    Args:
        base: what samples; its context and its end-of-turn tokens bound every sample.
        snapshots: the adapters.
        memory: where their weights are.
        settings: sizes and limits.

    Attributes:
        last: who had how much of the last step; None where it had nothing to do.
        on_step: told the ids of the requests that a step computes, before it does.
    """

    def __init__(self, base: BaseModel, snapshots: Snapshots, memory: SlotMemory, settings: Settings) -> None:
        self._base = base
        self._memory = memory
        self._snapshots = snapshots
        self._settings = settings
        shape = KVShape(base.info.num_layers, base.kv_heads, base.head_dim, base.dtype)
        blocks = affordable_blocks(shape, base.device, settings)
        self.cache = KVCache(shape, settings.kv_block_size, blocks, base.device)
        # Tiles read keys in an order of their own, an accelerator has the memory's bandwidth to gather, and the step in
        # C reads blocks where they lie.
        in_rows = base.device.type == "cpu" and base.products.tile == 1 and base.native is None
        self._stream = DecodeStream(self.cache, in_rows=in_rows)
        self._drawings = Drawings(base.products.tile, in_c=settings.native_kernels)
        self.schedule = SampleSchedule(
            BlockManager(blocks), settings.kv_block_size, settings.prefill_tokens, settings.max_decode_batch
        )
        decode = None if base.tokenizer is None else partial(base.tokenizer.decode, skip_special_tokens=False)
        self._groups = OpenGroups(self.schedule, base.info, decode, snapshots.done)
        self.last: PassShare | None = None
        self._halved = False
        self._rows_at_once = max(1, _CELLS_AT_ONCE // base.info.vocab_size)
        self.on_step: Callable[[Iterable[str]], None] = lambda ids: None

    def figures(self) -> dict[str, float]:
        """Return what metrics show of the KV cache: its blocks, those held, and how often a sequence gave way."""
        blocks = self.schedule.blocks
        held = blocks.num_blocks - blocks.available
        return {"kv_blocks": blocks.num_blocks, "kv_blocks_held": held, "preemptions": self.schedule.preemptions}

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to return."""
        return self._groups.has_work

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
        self._groups.check_room(job.prompt)
        # Everything that can be refused is behind us: what is acquired here is given back when the request is over.
        self._groups.open(job, job.params.seed, self._snapshots.acquire(job.sampler_id))

    def cancel(self, request_id: str) -> None:
        """Drop a request; nothing is returned for it. Unknown and finished ones are ignored."""
        self._groups.cancel(request_id)

    def step(self, turn: Turn = EVEN) -> list[Ended]:
        """Compute one prefill chunk or one token of running sequences; return the requests that ended.

        A request whose logits are not finite ends with a UserError, its neighbours go on. Where memory runs out the
        step is taken in halves, and a request that does not fit alone ends with the error. If the pass fails otherwise,
        the requests in it end with its error and the others go on.

        Args:
            turn: whose turn it is. One who has nothing that can go on now gets none, and nobody else in its place.
        """
        THREADS.follow_load(Grain.SAMPLING)
        plan = self.schedule.next(turn)
        self.last = None
        if plan is not None:
            self.last = plan.share
            groups = dict.fromkeys(part.sequence.group for part in plan.slices)
            self.on_step([group.job.request_id for group in groups])
            try:
                self._run(plan)
            except Exception as error:
                log.exception("sampling step of %d sequences failed", len(plan.slices))
                self._fail_all(plan.slices, error)
            if not self.schedule.running:
                self._stream.clear()
                self._drawings.clear()
                self._halved = False
        return self._groups.take_ended()

    def _run(self, plan: Plan) -> None:
        of_slot: dict[Slot | None, list[Slice]] = {}
        for part in plan.slices:
            of_slot.setdefault(part.sequence.group.slot, []).append(part)
        self.cache.prepare(self.schedule.take_fresh())
        # In one pass where there is room for all their adapters at once.
        for slots in self._memory.companies(sorted(of_slot, key=_order), lambda slot: slot):
            self._memory.use([slot for slot in slots if slot is not None])
            # Equal adapters side by side, so that each is one span of the stream.
            (self._decode if plan.decode else self._prefill)([part for slot in slots for part in of_slot[slot]])

    def _decode(self, slices: list[Slice]) -> None:
        """Compute one token of each sequence and draw the next."""
        drawn = self._drawn(slices)
        computed = [part for part in slices if not isinstance(drawn[part.sequence], Exception)]
        # Only now: had the pass failed, the blocks would hold nothing that others may find.
        for part in computed:
            self.schedule.computed(part)
        for sequence, token in drawn.items():
            self._append(sequence, token)
        for part in computed:
            self._groups.settle(part.sequence)

    def _drawn(self, slices: list[Slice]) -> dict[Sequence, NextToken | Exception]:
        """Compute sequences together; where memory runs out, in halves, down to single ones, which may fail."""
        sequences = [part.sequence for part in slices]
        try:
            return dict(zip(sequences, self._next_tokens(sequences), strict=True))
        except Exception as error:
            # It may have gone on with a step that the sequences did not take.
            self._stream.clear()
            if not is_out_of_memory(error):
                raise
            if len(slices) == 1:
                return {slices[0].sequence: error}
            self._say_halved(f"{len(slices)} sequences decoded", error)
        # Outside of the except: an error holds on to its pass's tensors.
        half = len(slices) // 2
        return self._drawn(slices[:half]) | self._drawn(slices[half:])

    def _say_halved(self, what: str, error: Exception) -> None:
        # Once until nothing runs: the next steps are as large, and a line for each would be hundreds.
        if not self._halved:
            log.warning("memory ran out while %s (%s); they go on in halves, as often as need be", what, error)
        self._halved = True

    def _next_tokens(self, sequences: list[Sequence]) -> list[NextToken]:
        drawn: list[NextToken] = []
        # Chunked, because [sequences, V] in float64 with its temporaries would outgrow the model itself.
        for logits in decode(self._base, self._stream, sequences, self._rows_at_once):
            start, end = len(drawn), len(drawn) + logits.shape[0]
            drawn += self._drawings.next(start, sequences[start:end], logits)
        return drawn

    def _prefill(self, slices: list[Slice]) -> None:
        """Compute parts of prompts; begin to sample those that are all there. Where memory runs out, in halves."""
        try:
            done = PrefillPass(self._base, self.cache, slices)
        except Exception as error:
            if not is_out_of_memory(error) or len(slices) == 1:
                raise
            self._say_halved(f"the prompts of {len(slices)} requests were computed", error)
            done = None
        if done is None:
            half = len(slices) // 2
            for some in (slices[:half], slices[half:]):
                try:
                    self._prefill(some)
                except Exception as error:
                    self._fail_all(some, error)
            return
        # Only now: had the pass failed, the blocks would hold nothing that others may find.
        for part in slices:
            self.schedule.computed(part)
        self._score_prompts(slices, done)
        ends = [i for i, part in enumerate(slices) if part.reaches_end and self._groups.is_live(part.sequence.group)]
        for start in range(0, len(ends), self._rows_at_once):
            some = ends[start : start + self._rows_at_once]
            self._draw([slices[i].sequence for i in some], done.last_logits(some))

    def _score_prompts(self, slices: list[Slice], done: PrefillPass) -> None:
        chunk = self._rows_at_once
        for index, part in enumerate(slices):
            group = part.sequence.group
            if group.scores is None or not part.sequence.is_prompt_leader:
                continue
            rows = group.scores.rows(part.start, part.end)
            for first in range(rows.start, rows.stop, chunk):
                count = min(chunk, rows.stop - first)
                if not group.scores.take(done.inner_logits(index, first - part.start, count), self._base.products.tile):
                    self._groups.fail(group, _not_finite(group))
                    break

    def _draw(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Draw the next token of each sequence, of all samples where it stands for a whole request."""
        drawing: list[Sequence] = []
        rows: list[int] = []
        leaders = [s for s in sequences if s.is_prompt_leader]
        for row, sequence in enumerate(sequences):
            samples = self._groups.first_samples(sequence) if sequence.is_prompt_leader else [sequence]
            drawing += samples
            rows += [row] * len(samples)
        for start in range(0, len(drawing), self._rows_at_once):
            end = start + self._rows_at_once
            some, index = drawing[start:end], to_device(rows[start:end], logits.device)
            for one, token in zip(some, self._drawings.once(some, logits[index]), strict=True):
                self._append(one, token)
        for leader in leaders:
            self.cache.copy(self._groups.fork(leader))
        for sequence in drawing:
            self._groups.settle(sequence)

    def _append(self, sequence: Sequence, drawn: NextToken | Exception) -> None:
        group = sequence.group
        # A sample that failed has ended its whole request, of which others may stand in this batch.
        if not self._groups.is_live(group):
            return
        if isinstance(drawn, Exception):
            self._groups.fail(group, drawn)
        elif drawn.token is None:
            self._groups.fail(group, _not_finite(group))
        else:
            sequence.append(drawn.token, drawn.logprob, drawn.top)

    def _fail_all(self, slices: list[Slice], error: Exception) -> None:
        for part in slices:
            if self._groups.is_live(part.sequence.group):
                self._groups.fail(part.sequence.group, error)


def _order(slot: Slot | None) -> tuple[int, int, int]:
    """Sorts adapters so that those of the same pool are neighbours."""
    return (0, 0, 0) if slot is None else slot.order


def _not_finite(group: SampleGroup) -> UserError:
    return invalid(f"sampler {group.job.sampler_id}", "logits that are not finite", "weights that did not diverge")
