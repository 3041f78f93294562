"""The queue of one model: asking it changes nothing, and it says why a step has to fail."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.fakes.fake_engine import BAD_ROW, FakeEngine
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.types.engine_messages.operations import (
    ForwardBackward,
    OptimStep,
    ReleaseModel,
    SaveRecoveryPoint,
    Skip,
    TakeSnapshot,
)
from tinsmith.types.params import AdamParams

works = st.sampled_from(
    [ForwardBackward(), ForwardBackward(), OptimStep(AdamParams()), TakeSnapshot("s", "/s"), Skip()]
)
arrivals = st.one_of(
    st.builds(
        lambda work, seq, replay: operation(work, "m", seq, replay=replay), works, st.integers(1, 9), st.booleans()
    ),
    st.builds(lambda after: operation(SaveRecoveryPoint("/p", after), "m"), st.integers(0, 9)),
    st.builds(lambda: create("m")),
    st.builds(lambda: operation(ReleaseModel(), "m")),
)
happenings = st.one_of(arrivals, st.sampled_from(["born", "born", "done", "dirty", "step_fails", "step_done"]))


def let_happen(queue: ModelQueue, what: Any) -> None:
    match what:
        case "born":
            queue.born(queue.next_seq)
        case "dirty":
            queue.dirty = True
        case "step_fails":
            queue.step_fails("told so")
        case "step_done":
            queue.step_done()
        case "done":
            op = queue.ready_barrier() or queue.ready_pass()
            if op is not None:
                queue.done(op, now=2.0)
        case _:
            queue.offer(what, now=1.0)


def ask_all(queue: ModelQueue) -> list[Any]:
    return [
        queue.ready_barrier(),
        [queue.ready_pass(position) for position in range(3)],
        queue.blocked_since,
        queue.missing,
        queue.everything(),
        queue.ordered(),
        len(queue),
    ]


@given(st.lists(happenings, max_size=12))
@example(["born", operation(ForwardBackward(), "m", 3, replay=True)])  # a gap that will never be filled
def test_asking_a_queue_changes_nothing(happened: list[Any]) -> None:
    queue = ModelQueue("m", now=0.0)
    for what in happened:
        let_happen(queue, what)
        before = deepcopy(vars(queue))
        first = ask_all(queue)
        assert vars(queue) == before
        assert ask_all(queue) == first


def test_asking_what_is_ready_changes_nothing_in_a_whole_engine() -> None:
    driven = Driven(FakeEngine())
    gap = forward_backward("m", 3, [12], replay=True)
    driven.run(create("m"), forward_backward("m", 1, [11]), load_sampler("s"))
    driven.submit(gap, optim("m", 4), sample("s"), sample("unknown"))
    driven.host._drain()
    (scheduler,) = driven.host._engines.values()
    samples = scheduler.sample_queue
    watched = [*scheduler.queues.values(), scheduler.known_samplers, samples, samples.waiting]
    before = [{name: repr(value) for name, value in vars(one).items()} for one in watched]
    asked = [(scheduler.ready(), scheduler.next_deadline()) for _ in range(2)]
    assert asked[0] == asked[1]
    assert [{name: repr(value) for name, value in vars(one).items()} for one in watched] == before


def test_a_place_that_never_comes_is_stepped_over_as_soon_as_that_is_known() -> None:
    queue = ModelQueue("m", now=0.0)
    queue.offer(operation(ForwardBackward(), "m", 3, replay=True), now=0.0)
    assert (queue.next_seq, queue.step_error) == (1, None), "the birth may bring the places before"
    queue.born(next_seq=2)
    assert (queue.next_seq, queue.step_error) == (3, "seq_id 2 of model m never arrived")


def test_a_birth_that_holds_the_places_before_leaves_no_gap() -> None:
    queue = ModelQueue("m", now=0.0)
    queue.offer(operation(ForwardBackward(), "m", 3, replay=True), now=0.0)
    queue.born(next_seq=3)
    assert (queue.next_seq, queue.step_error) == (3, None)


def test_a_failed_pass_is_the_first_reason_though_a_gap_follows_it() -> None:
    driven = Driven(FakeEngine())
    step = optim("m", 4)
    # Places 2 and 3 were settled in an earlier life and have nothing to replay.
    driven.run(create("m"), forward_backward("m", 1, [BAD_ROW]), operation(Skip(), "m", 3, replay=True), step)
    assert "forward_backward with seq_id 1 failed" in driven.failure(step).message
