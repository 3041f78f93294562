"""Polling, cancelling, keeping and forgetting results."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.client import Client, Failed
from tests.server.conftest import Running, Start, soon
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.records import Record, State
from tinsmith.types.engine_messages.host_events import Result
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory, UserError

pytestmark = pytest.mark.anyio


async def test_a_poll_is_held_and_then_asks_to_try_again(start: Start) -> None:
    running = await start(long_poll_s=0.2)
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    started = time.monotonic()
    answer = await client.poll(promise["request_id"])
    assert time.monotonic() - started >= 0.2
    assert answer.status_code == 408
    expected = {"type": "try_again", "request_id": promise["request_id"], "queue_state": "active"}
    assert answer.json() == expected


async def test_polls_may_overlap_and_results_can_be_fetched_again(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    polls = [asyncio.ensure_future(client.result(promise)) for _ in range(5)]
    await asyncio.sleep(0.05)
    running.link.release()
    results = await asyncio.gather(*polls)
    assert all(result.metrics == results[0].metrics for result in results)
    assert (await client.result(promise)).metrics == results[0].metrics


async def test_the_accept_header_decides_the_encoding(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    promise = await client.post_pass(model, 1, 2)
    expected = await client.result(promise)
    answer = await client.post("retrieve_future", {"request_id": promise["request_id"]}, Accept="application/json")
    assert answer["metrics"] == expected.metrics
    # JSON has the shortest number that is the same float32.
    logprobs = np.asarray(answer["loss_fn_outputs"][0]["logprobs"]["data"], np.float32)
    assert logprobs.tolist() == expected.loss_fn_outputs[0]["logprobs"].data
    sampler = await client.snapshot(model)
    promise = await client.post_sample(sampler, prompt_logprobs=True)
    answer = await client.post("retrieve_future", {"request_id": promise["request_id"]}, Accept="application/json")
    assert answer["prompt_logprobs"][0] is None
    assert answer["sequences"][0]["tokens"] == (await client.result(promise)).sequences[0].tokens


async def test_unknown_and_foreign_futures_look_alike(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    promise = await client.post_pass(await client.create_model(), 1)
    foreign = await other.post("retrieve_future", promise, 404)
    unknown = await other.post("retrieve_future", {"request_id": "x" * 32}, 404)
    assert foreign["detail"].replace(promise["request_id"], "") == unknown["detail"].replace("x" * 32, "")
    await other.post("cancel_future", promise, 404)
    await other.post("retrieve_future", {}, 422)


async def test_cancelling_drops_a_sample_and_nothing_else(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    running.link.holding = True
    sample, training = await client.post_sample(sampler), await client.post_pass(model, 1)
    for promise in (sample, training):
        await client.post("cancel_future", promise)
    with pytest.raises(Failed, match="cancelled") as failed:
        await client.result(sample)
    assert failed.value.category == "user"
    assert running.link.cancelled == [sample["request_id"]]
    running.link.release()
    assert (await client.result(training)).metrics
    # An answer of the engine that comes too late changes nothing.
    running.link.send(Result(sample["request_id"], b"late"))
    with pytest.raises(Failed, match="cancelled"):
        await client.result(sample)


async def test_fetched_results_are_forgotten_after_a_while_and_others_are_kept(start: Start) -> None:
    running = await start(result_retention_s=0.2, recovery_interval_s=0.001)
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    fetched, kept = await client.post_sample(sampler, 0), await client.post_sample(sampler, 1)
    await client.result(fetched)
    await asyncio.sleep(0.3)
    await running.service.sweeper.sweep()
    await client.post("retrieve_future", fetched, 404)
    assert await client.result(kept)


async def test_results_of_a_run_outlive_retention_while_a_replay_may_need_them(start: Start) -> None:
    running = await start(result_retention_s=0.05)
    client = await running.client()
    model = await client.create_model()
    promise = await client.post_pass(model, 1)
    await client.result(promise)
    await asyncio.sleep(0.1)
    await running.service.sweeper.sweep()
    assert await client.result(promise)
    await client.optim_step(model)
    running.service.recovery_points.take(running.service.core.live.runs[model], 2)
    await soon(lambda: not running.service.core.live.runs[model].ops)
    await running.service.sweeper.sweep()
    await client.post("retrieve_future", promise, 404)
    repeat = await client.post_pass(model, 1, seq_id=1)
    with pytest.raises(Failed, match="its result has expired"):
        await client.result(repeat)


async def test_what_is_over_is_found_without_a_look_at_all_that_is_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to an operation, and in whatever order: no sweep leaves one whose time is over."""
    running = await start(result_retention_s=100.0)
    core, sweeper, choose = running.service.core, running.service.sweeper, random.Random(7)
    now = 1000.0
    for clock in (core.clock, core.live, core.futures):
        monkeypatch.setattr(clock, "now", lambda: now)
    forgotten = 0

    def over() -> list[Record]:
        return [r for r in core.futures.records() if sweeper._is_over(r, now - (60.0 if r.at_door else 100.0))]

    clients = [await running.client("one"), await running.client("two")]
    models = {client: [await client.create_model()] for client in clients}
    promises: dict[Client, list[dict[str, Any]]] = {client: [] for client in clients}
    for _ in range(60):
        client = choose.choice(clients)
        model = models[client][-1]
        kind = choose.choice(["pass", "refused", "fetch", "fetch", "point", "end", "wait", "wait", "wait"])
        if kind == "pass":
            promises[client].append(await client.post_pass(model, 1))
        elif kind == "refused":
            promises[client].append(await client.post_step(model, learning_rate=-1.0))
        elif kind == "fetch" and promises[client]:
            await client.poll(promises[client].pop(choose.randrange(len(promises[client])))["request_id"])
        elif kind == "point":
            await client.optim_step(model)
            running.service.recovery_points.take(core.live.runs[model], max(core.live.runs[model].ops))
        elif kind == "end":
            await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "success"}}, 204)
            await soon(lambda gone=client.session_id: gone not in core.live.sessions)
            await client.open()
            models[client].append(await client.create_model())
        else:
            now += choose.choice([5.0, 50.0, 101.0])
        await asyncio.sleep(0.002)
        before, due = len(list(core.futures.records())), over()
        await sweeper.forget()
        assert not over()
        assert len(list(core.futures.records())) == before - len(due)
        forgotten += len(due)
    assert forgotten > 15

    def walk() -> None:
        raise AssertionError("looks at all that is kept")

    monkeypatch.setattr(core.futures, "records", walk)
    await sweeper.sweep()
    for session in list(core.live.sessions.values()):
        await running.service.sessions.end(session, "finished", "over")
    running.service.metrics_page()


async def test_a_look_for_what_is_pending_passes_over_what_is_settled() -> None:
    store = FutureStore()
    records = [Record(OpKind.FORWARD_BACKWARD, "owner", session_id=f"s{n % 2}") for n in range(6)]
    for record in records:
        store.add(record)
    for record in records[:3]:
        record.succeed(b"", "application/json")
        record.settled_at = store.now()
        store.mark_settled(record)
    seen: list[Record] = []
    assert store.pending(lambda r: not seen.append(r)) == records[3:]
    assert seen == records[3:]
    assert store.of_session("s0") == records[::2]
    assert store.pending_of("s1") == [records[3], records[5]]
    for record in records:
        store.discard(record)
    assert not store._unsettled
    assert not store._by_session
    assert not store.due(1e18, 1e18)


async def test_what_could_not_be_forgotten_is_tried_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = await start(result_retention_s=0.05)
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    promise = await client.post_sample(sampler)

    async def full(_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(running.service.core.journal, "forget", full)
        await client.result(promise)
        await asyncio.sleep(0.1)
        with pytest.raises(OSError, match="no space left"):
            await running.service.sweeper.forget()
    assert running.service.core.futures.find(promise["request_id"]) is not None
    await running.service.sweeper.forget()
    await client.post("retrieve_future", promise, 404)


async def test_a_held_poll_makes_no_task_and_leaves_nothing_behind() -> None:
    store, record = FutureStore(), Record(OpKind.FORWARD_BACKWARD, "owner")
    store.add(record)
    assert not await store.wait(record, 0.01)
    before = len(asyncio.all_tasks())
    polls = [asyncio.ensure_future(store.wait(record, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before + 3
    # One client goes away; the others are told.
    polls[0].cancel()
    await asyncio.gather(polls[0], return_exceptions=True)
    store.mark_settled(record)
    assert await asyncio.gather(*polls[1:]) == [True, True]
    assert await store.wait(record, 60)
    assert not store._held


async def test_stopping_lets_polls_go(start: Start) -> None:
    running = await start(long_poll_s=30.0)
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    poll = asyncio.ensure_future(client.poll(promise["request_id"]))
    await asyncio.sleep(0.05)
    running.service.drain()
    assert (await asyncio.wait_for(poll, 2)).status_code == 408


async def test_a_failing_disk_delays_a_result_and_loses_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    journal = running.service.core.journal
    settle, failures = journal.settle, iter([OSError(28, "No space left on device")] * 2)

    async def full(record: Record, effects: object = ()) -> None:
        for error in failures:
            raise error
        await settle(record, effects)  # pyright: ignore

    monkeypatch.setattr(journal, "settle", full)
    monkeypatch.setattr("tinsmith.server.engine_link.outcomes._RETRY_S", (0.01,))
    running.link.release()
    assert (await client.result(promise)).metrics


async def test_a_post_that_cannot_be_stored_is_not_acknowledged_and_can_be_repeated(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await running.client()
    model = await client.create_model()
    with monkeypatch.context() as patch:

        async def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(running.service.core.journal, "add", full)
        answer = await client.post("optim_step", {"model_id": model, "seq_id": 2, "adam_params": {}}, 503)
        assert "No space left" in answer["detail"]
    repeated = await client.post("optim_step", {"model_id": model, "seq_id": 2, "adam_params": {}})
    await client.forward_backward(model, 1, seq_id=1)
    assert await client.result(repeated)


# -- the store by itself ----------------------------------------------------------------------------------------------

Steps = st.lists(st.tuples(st.sampled_from(["add", "settle", "discard"]), st.integers(0, 5)), max_size=40)


@given(Steps)
def test_the_store_keeps_one_record_per_key_and_counts_what_waits(steps: list[tuple[str, int]]) -> None:
    store, model = FutureStore(), dict[int, Record]()
    for action, key in steps:
        if action == "add" and key not in model:
            model[key] = Record(OpKind.SAMPLE, f"owner{key % 2}", scope=str(key))
            store.add(model[key])
        elif action == "settle" and key in model:
            if model[key].state is State.PENDING:
                model[key].fail("no", RequestErrorCategory.USER)
            store.mark_settled(model[key])
        elif action == "discard" and key in model:
            store.discard(model.pop(key))
        assert store.usage.samples == Counter(r.owner for r in model.values() if not r.settled.is_set())
        for number in range(6):
            record = store.by_scope(str(number))
            assert record is model.get(number)
            if record is not None:
                assert store.get(record.request_id, f"owner{number % 2}") is record
                with pytest.raises(UserError):
                    store.get(record.request_id, f"owner{1 - number % 2}")


def test_records_are_told_apart_by_identity() -> None:
    assert len({Record(OpKind.SAMPLE, "a"), Record(OpKind.SAMPLE, "a")}) == 2
