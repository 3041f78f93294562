"""The order of sampling work, played through with a cache that remembers what each cell stands for."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.cache.block_manager import BlockManager
from tinsmith.engine.sampling.schedule import Plan, SampleSchedule
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.engine.sampling.stops import TokenStop
from tinsmith.engine.sharing import Turn
from tinsmith.types.params import SamplingParams

SIZE = 4


class Play:
    """Runs a schedule; a cell of the cache holds (version, all tokens up to its own)."""

    def __init__(self, blocks: int, prefill_tokens: int, max_sequences: int) -> None:
        self.schedule = SampleSchedule(BlockManager(blocks), SIZE, prefill_tokens, max_sequences)
        self.cells: dict[int, list[object]] = {}
        self.live: list[SampleGroup] = []
        self.orders = 0
        self.prefill_tokens = prefill_tokens
        self.max_sequences = max_sequences

    def add(
        self, prompt: list[int], samples: int, length: int, version: int, first_row: int | None, owner: str = ""
    ) -> SampleGroup:
        shape = {"prompt": prompt, "num_samples": samples, "params": SamplingParams(seed=0)}
        job = SampleJob(request_id=str(self.orders), sampler_id="s", owner=owner, **shape)
        scores = None if first_row is None else cast(Any, SimpleNamespace(next_row=min(first_row, len(prompt) - 1)))
        make = self.sample
        group = SampleGroup(job, 0, self.orders, None, version, len(prompt) + length, scores, make, unfinished=samples)
        self.orders += 1
        self.live.append(group)
        self.schedule.add(group.begin_next())
        return group

    def sample(self, group: SampleGroup, number: int) -> Sequence:
        return Sequence(group, number, list(group.job.prompt), TokenStop(()), 0)

    def step(self) -> Plan | None:
        plan = self.schedule.next()
        for block in self.schedule.take_fresh():
            self.cells[block] = [None] * SIZE
        if plan is not None:
            self.check_plan(plan)
            for part in plan.slices:
                self.compute(part.sequence, part.start, part.end)
                self.schedule.computed(part)
            for part in plan.slices:
                if part.reaches_end:
                    self.extend(part.sequence)
        return plan

    def check_plan(self, plan: Plan) -> None:
        assert len({id(p.sequence) for p in plan.slices}) == len(plan.slices)
        assert all(p.start == p.sequence.computed < p.end <= len(p.sequence.tokens) for p in plan.slices)
        if plan.decode:
            assert all(p.end - p.start == 1 and p.reaches_end for p in plan.slices)
        else:
            assert sum(p.end - p.start for p in plan.slices) <= self.prefill_tokens
        assert len(self.schedule.running) + len(self.schedule.prefilling) <= self.max_sequences

    def compute(self, sequence: Sequence, start: int, end: int) -> None:
        """Write the new cells; everything before them must be what this sequence's own tokens are."""
        version = sequence.group.version
        for position in range(end):
            block, cell = sequence.blocks[position // SIZE], position % SIZE
            meaning = (version, tuple(sequence.tokens[: position + 1]))
            if position >= start:
                self.cells[block][cell] = meaning
            assert self.cells[block][cell] == meaning
        scores = sequence.group.scores
        if scores is not None and sequence.is_prompt_leader:
            # Rows to be scored were computed, none was skipped as cached.
            assert start <= scores.next_row
            scores.next_row = max(scores.next_row, min(end, len(sequence.group.job.prompt) - 1))

    def extend(self, sequence: Sequence) -> None:
        group = sequence.group
        drawing = [sequence]
        leads = sequence.is_prompt_leader
        if leads:
            for _ in range(min(group.to_begin, self.schedule.places_beside(sequence))):
                group.begin_next()
            drawing = list(group.samples)
        for s in drawing:
            # Samples differ by their number, and so do their completions.
            s.append(100 + 10 * (s.sample % 3) + len(s.tokens), -1.0)
        if leads:
            children = [s for s in drawing if s is not sequence and s.stop_reason is None]
            for source, target in self.schedule.fork(sequence, children):
                self.cells[target] = list(self.cells[source])
            if group.to_begin:
                self.schedule.add(group.begin_next())
        for s in drawing:
            if s.stop_reason is not None:
                self.schedule.remove(s)
                group.unfinished -= 1
        if not group.unfinished:
            self.live.remove(group)

    def run(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.live:
                break
            assert self.step() is not None, "work is left but nothing is planned"
        assert not self.live
        assert self.schedule.blocks.available == self.schedule.blocks.num_blocks
        assert self.schedule.waiting == 0
        assert [*self.schedule.running, *self.schedule.prefilling] == []


JOBS = st.tuples(
    st.lists(st.integers(0, 1), min_size=1, max_size=14),
    st.integers(1, 5),
    st.integers(1, 10),
    st.integers(0, 1),
    st.one_of(st.none(), st.integers(0, 13)),
    st.sampled_from(["", "ann", "bob"]),
)


@examples(200)
@given(
    st.lists(JOBS, min_size=1, max_size=8),
    st.integers(6, 14),
    st.integers(1, 20),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_every_request_ends_on_its_own_keys(
    jobs: list[tuple[list[int], int, int, int, int | None, str]],
    blocks: int,
    prefill_tokens: int,
    max_sequences: int,
    chance: random.Random,
) -> None:
    # A single sequence has at most 24 tokens, six blocks; together they need far more than there is.
    play = Play(blocks, prefill_tokens, max_sequences)
    groups = []
    for job in jobs:
        groups.append(play.add(*job))
        for _ in range(chance.randrange(4)):
            play.step()
    play.run()
    for group, (prompt, samples, length, *_) in zip(groups, jobs, strict=True):
        assert [len(s.tokens) for s in group.samples] == [len(prompt) + length] * samples


@examples(60)
@given(st.lists(JOBS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_cancelled_requests_leave_nothing_behind(
    jobs: list[tuple[list[int], int, int, int, int | None, str]], chance: random.Random
) -> None:
    play = Play(8, 6, 4)
    for job in jobs:
        play.add(*job)
    while play.live:
        for _ in range(chance.randrange(6)):
            play.step()
        if play.live:
            group = play.live.pop(chance.randrange(len(play.live)))
            for sequence in group.samples:
                play.schedule.remove(sequence)
    play.run()


def test_prefill_and_decode_take_turns() -> None:
    play = Play(200, 8, 50)
    play.add([1] * 4, 1, 40, 0, None)
    play.step()
    play.add([0] * 80, 1, 1, 1, None)
    kinds = [plan.decode for plan in (play.step() for _ in range(20)) if plan is not None]
    # Ten prefill slices of eight tokens, and the running sequence gets a token after each.
    assert kinds == [True, False] * 10


def test_a_prompt_that_is_being_computed_is_waited_for() -> None:
    play = Play(50, 64, 50)
    prompt = [1, 0, 1, 1, 0, 0, 1, 0, 1]
    first, second = play.add(prompt, 1, 3, 0, None), play.add(prompt, 1, 3, 0, None)
    other = play.add(prompt, 1, 3, 1, None)
    play.run()
    assert (first.prompt_cached, second.prompt_cached, other.prompt_cached) == (0, 8, 0)


def test_a_large_job_does_not_keep_other_weights_waiting() -> None:
    play = Play(400, 64, 8)
    large = play.add([1] * 5, 60, 30, 0, None)
    for _ in range(20):
        play.step()
    assert len(play.schedule.running) == 8
    small = play.add([0] * 5, 2, 3, 1, None)
    later = play.add([0] * 6, 1, 3, 0, None)
    while small.unfinished:
        assert play.step() is not None
    # The next eight of the large job would have taken all places; it still goes on before what came later.
    assert large.unfinished >= 60 - 2 * 8
    while later.unfinished:
        assert play.step() is not None
    assert not any(s.stop_reason is None and not s.blocks for s in large.samples)
    play.run()


@pytest.mark.parametrize("versions", [1, 5], ids=["one-adapter", "many-adapters"])
def test_an_owner_that_has_nothing_running_does_not_wait_for_a_place(versions: int) -> None:
    play = Play(800, 64, 8)
    flood = [play.add([1] * 5, 20, 50, n, None, "flood") for n in range(versions)]
    while len(play.schedule.running) < 8:
        play.step()
    small = play.add([2] * 5, 1, 8, 9, None, "small")
    assert any(part.sequence.group is small for _ in range(2) for part in getattr(play.step(), "slices", []))
    steps = 0
    while small.unfinished:
        assert play.step() is not None
        steps += 1
    # A prefill, and a turn of prefill between two tokens at most; the flood's samples take 50 tokens each.
    assert steps <= 2 * 8
    assert sum(group.unfinished for group in flood) == 20 * versions
    play.run()
    assert play.schedule.preemptions == 1


def test_an_owner_gets_its_part_of_the_places_from_who_has_more() -> None:
    play = Play(800, 64, 8)
    play.add([1] * 5, 20, 50, 0, None, "flood")
    while len(play.schedule.running) < 8:
        play.step()
    few = [play.add([2 + n] * 5, 1, 8, 9, None, "few") for n in range(6)]
    for _ in range(8):
        play.step()
    held = [s.owner for s in (*play.schedule.running, *play.schedule.prefilling)]
    assert held.count("few") == held.count("flood") == 4
    while any(group.unfinished for group in few):
        play.step()
    play.run()


def test_an_owner_that_has_nothing_running_does_not_wait_for_blocks() -> None:
    play = Play(12, 64, 50)
    flood = [play.add([1, n], 1, 18, 0, None, "flood") for n in range(4)]
    while play.schedule.blocks.available > 1:
        play.step()
    small = play.add([2] * 10, 1, 4, 9, None, "small")
    steps = 0
    while small.unfinished:
        assert play.step() is not None
        steps += 1
    assert steps <= 2 * 4 + 2
    assert all(group.unfinished for group in flood)
    play.run()


def test_nobodys_last_sequence_gives_way() -> None:
    play = Play(8, 64, 50)
    long = play.add([1] * 20, 1, 4, 0, None, "long")
    play.step()
    play.add([2] * 14, 1, 4, 9, None, "other")
    while long.unfinished:
        play.step()
    assert play.schedule.preemptions == 0
    play.run()


def test_samples_of_one_request_begin_as_places_are_free() -> None:
    play = Play(400, 64, 8)
    group = play.add([1] * 5, 100, 6, 0, None)
    while group.unfinished:
        assert play.step() is not None
        running = [s for s in group.samples if s.stop_reason is None]
        # Those that run, and one that waits for the next place.
        assert len(running) <= 8 + 1
    assert [s.sample for s in group.samples] == list(range(100))


def test_the_turn_of_an_owner_who_cannot_go_on_is_nobody_elses() -> None:
    play = Play(6, 64, 50)
    play.add([1] * 18, 1, 4, 0, None, "holder")
    play.step()
    play.add([2] * 14, 1, 4, 9, None, "waiting")
    assert play.schedule.next(Turn("waiting")) is None
    assert play.schedule.next(Turn("holder")) is not None


def test_owners_with_one_place_each_keep_it() -> None:
    play = Play(400, 64, 3)
    for n in range(6):
        play.add([n % 2] * 5, 1, 6, 0, None, f"owner {n}")
    play.run()
    assert play.schedule.preemptions == 0


def test_samples_share_the_full_blocks_of_their_prompt() -> None:
    play = Play(50, 64, 50)
    group = play.add([1] * 10, 4, 5, 0, None)
    play.step()
    shared = {tuple(s.blocks[:2]) for s in group.samples}
    assert len(shared) == 1
    assert len({s.blocks[2] for s in group.samples}) == 4
    assert play.schedule.blocks.available == 50 - 2 - 4


@pytest.mark.parametrize("blocks", [6, 7, 9])
def test_the_youngest_gives_way_and_comes_back(blocks: int) -> None:
    play = Play(blocks, 64, 50)
    groups = [play.add([n % 2, n // 2, 1], 1, 20, 0, None) for n in range(4)]
    finished: list[SampleGroup] = []
    while play.live:
        play.step()
        finished += [g for g in groups if not g.unfinished and g not in finished]
    assert play.schedule.preemptions > 0
    assert finished[0] is groups[0]
