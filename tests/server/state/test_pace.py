"""Polls that end in turns: all of them, in order, few in a round of the loop, none much later than it could."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from tinsmith.server.state import pace
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.pace import Pace, Poll
from tinsmith.server.state.records import Record
from tinsmith.types.engine_messages.operations import OpKind, OptimStep
from tinsmith.types.params import AdamParams

pytestmark = pytest.mark.anyio


def polls(count: int) -> list[Poll]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


def end_all_of(turns: Pace, held: list[Poll]) -> list[int]:
    """End them one after the other; return a list that gets their places as they end."""
    order: list[int] = []
    for place, poll in enumerate(held):
        poll.add_done_callback(lambda _, place=place: order.append(place))
        turns.end({poll})
    return order


async def test_a_few_end_at_once() -> None:
    held = polls(pace._AT_ONCE)
    end_all_of(Pace(), held)
    assert all(poll.done() for poll in held)


async def test_many_end_in_order_and_few_in_each_round() -> None:
    held = polls(50)
    order = end_all_of(Pace(), held)
    ended: list[int] = []
    while len(order) < len(held):
        await asyncio.sleep(0)
        ended.append(len(order))
    assert order == list(range(50))
    steps = [after - before for before, after in zip([0, *ended], ended, strict=False)]
    assert max(steps) <= pace._AT_ONCE


@pytest.mark.parametrize("longest_s", [0.1, 60.0])
async def test_a_loop_that_does_not_keep_up_ends_fewer(monkeypatch: pytest.MonkeyPatch, longest_s: float) -> None:
    monkeypatch.setattr(pace, "_LONGEST_S", longest_s)
    held = polls(60)
    order = end_all_of(Pace(), held)
    rounds: list[int] = []
    while len(order) < len(held):
        time.sleep(2 * pace._LATE_S)  # noqa: ASYNC251 - what others do meanwhile
        await asyncio.sleep(0.001)
        rounds.append(len(order))
    assert order == list(range(60))
    # The first come at once; then none in most turns.
    assert rounds[0] == rounds[1] == pace._AT_ONCE
    ending = [after - before for before, after in itertools.pairwise(rounds) if after > before]
    # With a bound, all end together that have waited so long; without one, it takes as many turns as that makes.
    assert (max(ending) > pace._AT_ONCE) == (longest_s < 1)
    assert (len(rounds) > 100) == (longest_s > 1)


async def test_polls_that_went_away_meanwhile_take_nothing_with_them() -> None:
    held = polls(20)
    order = end_all_of(Pace(), held)
    for poll in held[10:]:
        poll.cancel()
    await asyncio.wait_for(asyncio.gather(*held[:10]), 5)
    assert sorted(order) == list(range(20))


async def test_a_service_that_stops_ends_them_all() -> None:
    store = FutureStore()
    records = [Record(OpKind.OPTIM_STEP, "ann", work=OptimStep(AdamParams())) for _ in range(30)]
    for record in records:
        store.add(record)
    waiting = [asyncio.create_task(store.wait(record, 60)) for record in records]
    await asyncio.sleep(0)
    for record in records[:20]:
        store.mark_settled(record)
    store.release_polls()
    found = await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert found == [True] * 20 + [False] * 10
