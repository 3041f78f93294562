"""Downtime is no silence, a stopped process hears nobody, and a wall clock that jumps takes nothing away."""

from __future__ import annotations

import logging
import time

import pytest
from sqlalchemy import text

from tests.server.client import Client
from tests.server.conftest import Restarting, Running
from tinsmith.clocks import LONGEST_LOOK_S, ListeningClock, SteadyWall

pytestmark = [pytest.mark.anyio, pytest.mark.row(210)]

DAY = 86_400.0


class Hand:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def set_back(restarting: Restarting, seconds: float) -> None:
    """Make all that is stored look as if the service had been down for so long."""
    db = restarting.running.service.core.db
    for statement in (
        "UPDATE sessions SET last_seen_at = last_seen_at - :s, created_at = created_at - :s",
        "UPDATE runs SET last_request_at = last_request_at - :s",
        "UPDATE operations SET settled_at = settled_at - :s, fetched_at = fetched_at - :s",
    ):
        await db.write(lambda connection, sql=statement: connection.execute(text(sql), {"s": seconds}))


async def test_downtime_is_not_the_clients_silence(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    promise = await client.post_pass(model, 9)
    await client.result(promise)
    await restarting.running.service.sweeper.sweep()
    await set_back(restarting, 30 * DAY)
    await restarting.kill(client)
    await restarting.running.service.sweeper.sweep()
    assert (await client.optim_step(model))["steps"] == 1
    # Retention counts the same time: fetched an instant of listening ago.
    assert await client.result(promise)


async def test_a_service_that_was_stopped_ends_nothing(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    clock = running.service.core.clock
    hand = Hand(time.monotonic())
    clock.now._source = hand
    hand.now += DAY  # stopped, then continued: the first thing that runs is a sweep
    await running.service.sweeper.sweep()
    assert await client.forward_backward(model, 1)
    # Listened to all the while, the same silence ends it.
    for _ in range(int(running.service.settings.session_timeout_s / LONGEST_LOOK_S) + 2):
        hand.now += LONGEST_LOOK_S
        clock.now()
    await running.service.sweeper.sweep()
    await client.post("session_heartbeat", {"session_id": client.session_id}, 410)


async def test_whoever_polls_is_not_silent(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    promise = await client.post_pass(model, 1)
    session = running.service.core.live.sessions[client.session_id]
    session.heard_at -= 1e6
    await client.result(promise)
    await running.service.sweeper.sweep()
    assert client.session_id in running.service.core.live.sessions


async def _saved(client: Client, running: Running) -> float:
    model = await client.create_model()
    await client.save_state(model, "short", ttl_seconds=3600)
    query = text("SELECT expires_at FROM checkpoints")
    return await running.service.core.db.read_async(lambda c: c.execute(query).scalar_one())


@pytest.mark.parametrize(("jump", "words"), [(DAY, "on by 24 h"), (-3600.0, "back by 60 min")])
async def test_a_jump_takes_nothing_away(
    running: Running, caplog: pytest.LogCaptureFixture, jump: float, words: str
) -> None:
    client = await running.client()
    before = await _saved(client, running)
    wall = running.service.core.clock.wall
    wall._wall = lambda: time.time() + jump
    assert (await client.get("checkpoints"))["cursor"]["total_count"] == 1  # before anybody has noticed, too
    with caplog.at_level(logging.WARNING):
        await running.service.sweeper.sweep()
        await running.service.sweeper.sweep()
    assert [r.getMessage() for r in caplog.records if "wall clock" in r.getMessage()] == [
        f"the wall clock was moved {words}; the ends of lifetimes (1 checkpoints) were moved with it"
    ]
    assert (await client.get("checkpoints"))["cursor"]["total_count"] == 1
    query = text("SELECT expires_at FROM checkpoints")
    after = await running.service.core.db.read_async(lambda c: c.execute(query).scalar_one())
    assert after - before == pytest.approx(jump, abs=5)
    assert client.session_id in running.service.core.live.sessions


def test_a_listening_clock_counts_no_time_in_which_it_was_not_looked_at() -> None:
    hand = Hand(100.0)
    clock = ListeningClock(7.0, hand)
    hand.now += 2
    assert clock() == 9.0
    hand.now += DAY
    assert clock() == 9.0 + LONGEST_LOOK_S
    hand.now -= DAY
    assert clock() == 9.0 + LONGEST_LOOK_S


def test_a_wall_clock_behind_what_was_stored_begins_there_and_keeps_what_is_left() -> None:
    real, uptime = Hand(1000.0), Hand(0.0)
    wall = SteadyWall(5000.0, real, uptime)
    assert (wall(), wall.behind, wall.jump()) == (5000.0, 4000.0, 0.0)
    uptime.now = real.now = 10.0
    real.now += 8000.0
    assert wall.jump() == 7000.0
    assert wall() == 5010.0
    assert wall.believe() == 3000.0
    assert wall() == real.now
