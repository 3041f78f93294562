"""Errors that nobody looked at are told once; those that somebody has, never."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from concurrent.futures import CancelledError, Future, as_completed
from typing import Any

import pytest

from tinsmith.client.transport.outcomes import OperationFuture, Outcome, Outcomes, all_ended, peek


class Reason(Exception):
    pass


@pytest.fixture
def outcomes(caplog: pytest.LogCaptureFixture) -> Outcomes:
    caplog.set_level(logging.WARNING, logger="tinsmith")
    return Outcomes()


def failing(outcomes: Outcomes, operation: str = "sample", text: str = "no memory", cause: Outcome | None = None):
    running: Future[int] = Future()
    handed = outcomes.watch(running, operation, cause)
    running.set_exception(Reason(text))
    return handed


def told(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    outcomes.tell()
    return caplog.text


def test_an_error_that_nobody_looked_at_is_told_once(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    failing(outcomes, "optim_step", "learning rate:\n  too high")
    assert "1 operation failed" in (text := told(outcomes, caplog))
    assert "optim_step: learning rate: too high" in text
    assert told(outcomes, caplog) == ""


def by_result(future: OperationFuture[int]) -> None:
    with pytest.raises(Reason):
        future.result(0)


def by_exception(future: OperationFuture[int]) -> None:
    assert isinstance(future.exception(), Reason)


def by_waiting(future: OperationFuture[int]) -> None:
    async def wait() -> None:
        with pytest.raises(Reason):
            await asyncio.wrap_future(future)

    asyncio.run(wait())


def by_callback(future: OperationFuture[int]) -> None:
    future.add_done_callback(lambda done: done.exception())


def as_they_come(future: OperationFuture[int]) -> None:
    (done,) = as_completed([future])
    by_exception(done)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("look", [by_result, by_exception, by_waiting, by_callback, as_they_come])
def test_one_that_somebody_has_is_not(look: Any, outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    look(failing(outcomes))
    assert told(outcomes, caplog) == ""


def test_waiting_in_vain_is_not_looking(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    running: Future[int] = Future()
    handed = outcomes.watch(running, "sample")
    with pytest.raises(TimeoutError):
        handed.result(0)
    assert not handed.done()
    running.set_exception(Reason("late"))
    assert "sample: late" in told(outcomes, caplog)


def test_many_of_a_kind_are_counted_and_many_kinds_are_cut(
    outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        failing(outcomes, "forward_backward", "weights: got 9, expected 8")
    for kind in range(7):
        failing(outcomes, "sample", f"reason {kind}")
    text = told(outcomes, caplog)
    assert "27 operations failed" in text
    assert "forward_backward (20 times): weights: got 9, expected 8" in text
    assert "reason 3" in text
    assert "reason 4" not in text
    assert "and 3 other errors" in text


def test_what_follows_from_a_known_error_is_not_told(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    by_result(failing(outcomes, "forward_backward", "bad weights"))
    failing(outcomes, "optim_step", "no step was taken: the forward_backward before it failed (bad weights)")
    assert told(outcomes, caplog) == ""


def test_operations_of_a_model_that_was_never_made_are_told_as_that(
    outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    creation = failing(outcomes, "create_lora_training_client", "no such folder")
    for _ in range(3):
        failing(outcomes, "forward_backward", "no such folder", creation.outcome)
    failing(outcomes, "forward_backward", "of its own", creation.outcome)
    text = told(outcomes, caplog)
    assert "2 operations failed" in text
    assert "create_lora_training_client: no such folder" in text
    assert "forward_backward: of its own" in text


def test_a_look_at_one_of_them_is_a_look_at_the_reason(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    creation = failing(outcomes, "create_lora_training_client", "no such folder")
    by_result(failing(outcomes, "forward_backward", "no such folder", creation.outcome))
    assert told(outcomes, caplog) == ""


def test_what_another_operation_needs_is_left_to_that_one(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    future = failing(outcomes)

    async def need() -> None:
        await all_ended([future])
        with pytest.raises(Reason):
            await peek(future)

    asyncio.run(need())
    assert "sample: no memory" in told(outcomes, caplog)


def test_results_and_cancellations_pass_through(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    running: Future[int] = Future()
    handed = outcomes.watch(running, "sample")
    running.set_result(3)
    assert handed.result() == 3
    running = Future()
    handed = outcomes.watch(running, "sample")
    assert handed.cancel()
    assert running.cancelled()
    running = Future()
    handed = outcomes.watch(running, "sample")
    running.cancel()
    with pytest.raises(CancelledError):
        handed.result(0)
    assert told(outcomes, caplog) == ""


def test_no_result_outlives_its_future(outcomes: Outcomes) -> None:
    class Large:
        pass

    running: Future[Large] = Future()
    handed = outcomes.watch(running, "sample")
    running.set_result(Large())
    result = weakref.ref(handed.result())
    gc.disable()
    try:
        del running, handed
        assert result() is None
    finally:
        gc.enable()


def test_nothing_is_told_of_what_the_end_cut_off(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    failing(outcomes)
    outcomes.close()
    failing(outcomes)
    assert told(outcomes, caplog) == ""
