"""The requests that are being sampled, from their arrival to their answer. No tensors."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike

from tinsmith.engine.adapters.snapshots import Snapshot
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.drawing.randomness import stream_base
from tinsmith.engine.sampling.finished_group import make_response
from tinsmith.engine.sampling.prompt_scores import PromptScores
from tinsmith.engine.sampling.schedule import SampleSchedule
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sampling.stops import Decode, stop_rule
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.outputs import SampleResponse

# A request's id with what it is answered with.
Ended = tuple[str, SampleResponse | Exception]


class OpenGroups:
    """Begins, forks and ends what the schedule orders.

    Args:
        schedule: its sequences come from here and leave through here.
        info: the model's context and its end-of-turn tokens bound every sample.
        decode: text of tokens, special tokens included; None where the model has no tokenizer.
        let_go: told of each request's snapshot when the request is over.
    """

    def __init__(
        self, schedule: SampleSchedule, info: BaseModelInfo, decode: Decode | None, let_go: Callable[[Snapshot], object]
    ) -> None:
        self._schedule = schedule
        self._info = info
        self._decode = decode
        self._let_go = let_go
        self._groups: dict[str, tuple[SampleGroup, Snapshot]] = {}
        self._arrivals = 0
        self._ended: list[Ended] = []

    @property
    def has_work(self) -> bool:
        """Whether a request runs, or has ended and was not taken yet."""
        return bool(self._groups or self._ended)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._groups

    def is_live(self, group: SampleGroup) -> bool:
        """Whether a request is still to be answered."""
        return group.job.request_id in self._groups

    # -- in -----------------------------------------------------------------------------------------------------------

    def check_room(self, tokens: ListLike[int]) -> None:
        """Refuse what the whole cache cannot hold.

        Raises:
            UserError: it cannot.
        """
        if len(tokens) > self._schedule.token_capacity:
            raise self._no_room(tokens)

    def _no_room(self, tokens: ListLike[int]) -> UserError:
        held = f"at most {self._schedule.token_capacity}, which the KV cache holds (kv_cache_mb)"
        return invalid("prompt and completion", f"{len(tokens)} tokens", held)

    def open(self, job: SampleJob, seed: int, snapshot: Snapshot) -> None:
        """Queue a request whose snapshot was acquired; it is given back when the request is over."""
        # More than the context holds is cut, not refused: `max_tokens` says at most.
        room = self._info.context_length - len(job.prompt)
        wanted = room if job.params.max_tokens is None else min(job.params.max_tokens, room)
        group = SampleGroup(
            job=job,
            seed=seed,
            order=self._arrivals,
            slot=snapshot.slot,
            version=snapshot.version,
            max_length=len(job.prompt) + wanted,
            scores=PromptScores.wanted(job, seed),
            make=self._make_sample,
            unfinished=job.num_samples,
        )
        self._arrivals += 1
        self._groups[job.request_id] = (group, snapshot)
        self._schedule.add(group.begin_next())

    def _make_sample(self, group: SampleGroup, sample: int) -> Sequence:
        rule = stop_rule(group.job.params.stop, self._info.eos_token_ids, self._decode)
        return Sequence(group, sample, list(group.job.prompt), rule, stream_base(group.seed, sample))

    # -- tokens -------------------------------------------------------------------------------------------------------

    def first_samples(self, leader: Sequence) -> list[Sequence]:
        """Return the samples of a request that begin now that the first of them has computed the prompt.

        The others follow one by one as places get free: a request with many samples takes no more of the batch, of the
        cache and of one step than as many requests would.
        """
        group = leader.group
        for _ in range(min(group.to_begin, self._schedule.places_beside(leader))):
            group.begin_next()
        return list(group.samples)

    def fork(self, leader: Sequence) -> list[tuple[int, int]]:
        """Let the other samples of a request run, once each has its first token; return the blocks to copy."""
        if not self.is_live(leader.group):
            return []
        # After that token, so that a sample which ended with it takes no blocks.
        children = [s for s in leader.group.samples[1:] if s.stop_reason is None]
        copies = self._schedule.fork(leader, children)
        if leader.group.to_begin:
            self._schedule.add(leader.group.begin_next())
        return copies

    def settle(self, sequence: Sequence) -> None:
        """After a token: finish the sequence, fail its request, or let it run on."""
        group = sequence.group
        # `max_tokens` may be absent, so a sequence is not refused for what it could grow to, only for what it has.
        is_too_long = len(sequence.tokens) > self._schedule.token_capacity
        if (sequence.stop_reason is None and not is_too_long) or not self.is_live(group):
            return
        if sequence.stop_reason is None:
            self.fail(group, self._no_room(sequence.tokens))
            return
        self._schedule.remove(sequence)
        group.unfinished -= 1
        if not group.unfinished:
            self._drop(group)
            self._ended.append((group.job.request_id, make_response(group)))

    # -- out ----------------------------------------------------------------------------------------------------------

    def fail(self, group: SampleGroup, error: Exception) -> None:
        """End a request with an error."""
        self._drop(group)
        self._ended.append((group.job.request_id, error))

    def cancel(self, request_id: str) -> None:
        """Drop a request; nothing is returned for it. Unknown and finished ones are ignored."""
        if request_id in self._groups:
            self._drop(self._groups[request_id][0])

    def _drop(self, group: SampleGroup) -> None:
        """Take all that is left of a request out of the schedule."""
        for sequence in group.samples:
            # One that ended has left the schedule, unless this request failed before it was settled.
            if sequence.blocks or sequence.stop_reason is None:
                self._schedule.remove(sequence)
        _, snapshot = self._groups.pop(group.job.request_id)
        self._let_go(snapshot)

    def take_ended(self) -> list[Ended]:
        """Return the requests that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended
