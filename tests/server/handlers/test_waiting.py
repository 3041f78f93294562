"""Why a result is not there yet, as clients are told it: `queue_state` and its reason in a try-again answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.server.client import Client
from tests.server.conftest import Running, Start, soon, up
from tests.support.fakes.fake_link import FakeLink
from tinsmith.types.engine_messages.host_events import Stats

pytestmark = pytest.mark.anyio

SHORT = {"long_poll_s": 0.01}


async def state(client: Client, promise: dict[str, Any]) -> tuple[str, str | None]:
    answer = await client.poll(promise["request_id"])
    assert answer.status_code == 408
    body = answer.json()
    assert body["type"] == "try_again"
    return body["queue_state"], body.get("queue_state_reason")


async def flood(running: Running) -> tuple[Client, dict[str, Any], Client, dict[str, Any]]:
    """Two keys with a sample each; return both."""
    mine, theirs = await running.client("mine"), await running.client("theirs")
    samplers = [await client.sampler(base_model="tiny") for client in (mine, theirs)]
    await soon(lambda: all(s.ready for s in running.service.core.live.samplers.values()))
    running.link.holding = True
    return mine, await mine.post_sample(samplers[0]), theirs, await theirs.post_sample(samplers[1])


async def test_what_runs_or_waits_for_its_owners_own_work_is_active(start: Start) -> None:
    running = await start(**SHORT)
    mine, first, _, _ = await flood(running)
    running.link.send(Stats({}, [first["request_id"]]))
    second = await mine.post_sample(f"{mine.session_id}:sample:0", 1)
    assert await state(mine, first) == await state(mine, second) == ("active", None)


async def test_a_sample_waits_for_the_places_of_others(start: Start) -> None:
    running = await start(**SHORT)
    mine, my_sample, theirs, their_sample = await flood(running)
    running.link.send(Stats({}, [their_sample["request_id"]]))
    assert await state(mine, my_sample) == (
        "paused_capacity",
        "the engine is shared: 1 operation of another key is under way beside yours",
    )
    assert await state(theirs, their_sample) == ("active", None)
    # The next report of the engine counts.
    running.link.send(Stats({}, [my_sample["request_id"], their_sample["request_id"]]))
    assert await state(mine, my_sample) == ("active", None)


async def test_a_training_step_waits_for_others_once_only_theirs_are_done(start: Start) -> None:
    running = await start(**SHORT)
    mine, _, theirs, _ = await flood(running)
    running.link.release()
    mine_model, their_model = await mine.create_model(), await theirs.create_model()
    running.link.holding = True
    step = await mine.post_pass(mine_model, 1)
    for _ in range(2):
        await theirs.post_pass(their_model, 1)
    now, futures = time.monotonic(), running.service.core.futures
    futures.usage.settled_at = {"theirs": now, "mine": now - 60}
    assert await state(mine, step) == ("active", None)  # it came just now
    record = futures.find(step["request_id"])
    assert record is not None
    record.created_at -= 60
    reason = "the engine is shared: 2 operations of another key are under way beside yours"
    assert await state(mine, step) == ("paused_capacity", reason)
    futures.usage.settled_at["mine"] = now  # it is its owner's own work that it waits for
    assert await state(mine, step) == ("active", None)


async def test_an_engine_that_is_away_is_told_with_its_reason(start: Start) -> None:
    link = FakeLink()
    running = await start(link, **SHORT)
    client = await running.client()
    model = await client.create_model()
    link.holding = True
    step = await client.post_pass(model, 1)
    assert await state(client, step) == ("active", None)
    link.kill("exit code -9")
    assert await state(client, step) == (
        "paused_capacity",
        "the engine is starting again after a loss (exit code -9)",
    )
    link.revive()
    await up(running)
    assert await state(client, step) == ("active", None)
    running.service.dispatcher.open = False  # as while much is replayed
    assert await state(client, step) == ("paused_capacity", "the engine is up and repeats what it lost")


async def test_a_sampler_that_is_being_loaded_is_told(start: Start) -> None:
    running = await start(**SHORT)
    client = await running.client()
    running.link.holding = True
    sample = await client.post_sample(await client.sampler(base_model="tiny"))
    assert await state(client, sample) == ("paused_capacity", "the engine is loading the weights of the sampler")


async def test_a_key_at_its_own_limit_is_told_so(start: Start) -> None:
    running = await start(max_tokens_in_flight_per_key=8, **SHORT)
    mine, my_sample, theirs, their_sample = await flood(running)
    refused = {
        "sampling_session_id": f"{mine.session_id}:sample:0",
        "seq_id": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
        "sampling_params": {"max_tokens": 4},
    }
    await mine.post("asample", refused, 429)
    queue_state, reason = await state(mine, my_sample)
    assert queue_state == "paused_rate_limit"
    assert reason is not None
    assert reason.startswith("your key is at its limit: tokens: got 5 more on top of 7 in samples of yours")
    assert (await state(theirs, their_sample))[0] == "active"
    # What runs is not held back.
    running.link.send(Stats({}, [my_sample["request_id"]]))
    assert await state(mine, my_sample) == ("active", None)
