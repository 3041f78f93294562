"""An operation that ends every engine that runs it fails with its reason, and all else goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running, Start, soon, up
from tinsmith.types.engine_messages.host_events import LossCause
from tinsmith.types.engine_messages.operations import Operation, OpKind

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 210), pytest.mark.timeout(60)]

SEGV = "the engine process was killed by signal 11 (Segmentation fault)"


async def lose(running: Running, *promises: dict[str, Any], reason: str = SEGV, cause: LossCause = "crashed") -> None:
    """Lose the engine while it runs what was promised, and wait for the next one."""
    await lose_with(running, [promise["request_id"] for promise in promises], reason, cause)


async def lose_with(running: Running, ids: Sequence[str], reason: str = SEGV, cause: LossCause = "crashed") -> None:
    running.link.kill(reason, cause, ids)
    running.link.revive()
    await up(running)


def sent(running: Running, promise: dict[str, Any]) -> Operation:
    """Return what this life of the engine was handed for a request."""
    return next(op for op in running.link.submitted if op.request_id == promise["request_id"])


def company(running: Running, promise: dict[str, Any]) -> int | None:
    """Return how many may run together with a request."""
    record = running.service.core.futures.find(promise["request_id"])
    assert record is not None
    return record.company


async def metric(running: Running, name: str) -> str:
    """Return the value of a metric."""
    page = (await running.http().get("/metrics")).text
    return next((line.split()[-1] for line in page.splitlines() if line.startswith(name)), "none")


async def test_two_losses_of_one_that_ran_alone_and_the_run_goes_on_from_the_state_before(running: Running) -> None:
    client = await running.client()
    model, calm = await client.create_model(), await client.create_model()
    for one in (model, calm):
        await client.forward_backward(one, 9)
    await client.optim_step(model)
    expected = await client.optim_step(calm)
    running.link.holding = True
    poison, step, later = (
        await client.post_pass(model, 6),
        await client.post_step(model),
        await client.post_pass(model, 5),
    )
    last = await client.post_step(model)
    await lose(running, poison)
    assert sent(running, poison).company == 1
    await lose(running, poison, reason="the engine process spent more than 600 s in one turn", cause="stalled")
    with pytest.raises(Failed) as failed:
        await client.result(poison)
    assert failed.value.message == (
        "the engine was lost twice while it ran this operation, which is not tried again; "
        "the last time: the engine process spent more than 600 s in one turn"
    )
    assert failed.value.category == "server"
    running.link.release()
    with pytest.raises(Failed, match=r"optim_step: .* failed"):
        await client.result(step)
    assert await client.result(later)
    running.link.holding = False
    await client.forward_backward(calm, 5)
    assert (await client.result(last))["metrics"] == await client.optim_step(calm) != expected
    assert await metric(running, 'tinsmith_operations_given_up_total{kind="forward_backward"}') == "1.0"
    assert await metric(running, 'tinsmith_engine_losses_total{cause="stalled"}') == "1.0"


async def test_the_guilty_one_of_several_that_ran_together(running: Running) -> None:
    client = await running.client()
    models = [await client.create_model() for _ in range(3)]
    running.link.holding = True
    promises = [await client.post_pass(model, 6) for model in models]
    guilty, *others = promises
    await lose(running, *promises)
    assert [sent(running, promise).company for promise in promises] == [1, 1, 1]
    # Two losses together say of none that it was this one.
    await lose(running, *promises)
    await lose(running, guilty)
    with pytest.raises(Failed, match="lost 3 times"):
        await client.result(guilty)
    running.link.release()
    for promise in others:
        assert await client.result(promise)


async def test_who_comes_through_is_cleared(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    for _ in range(2):
        running.link.holding = True
        promise = await client.post_pass(model, 6)
        await lose(running, promise)
        running.link.release()
        assert await client.result(promise)
        await lose(running)
        # Run again for its effect, as any other.
        assert sent(running, promise).company is None
    assert await metric(running, "tinsmith_operations_given_up_total") == "none"


async def test_kills_from_outside_are_held_against_nothing(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 6)
    for cause in ("killed", "stopped") * 10:
        await lose(running, promise, reason="the engine process was killed by signal 9 (Killed)", cause=cause)
    assert sent(running, promise).company is None
    running.link.release()
    assert await client.result(promise)


async def test_hundreds_of_samples_are_tried_in_companies(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    await client.sample(sampler, 0)
    running.link.holding = True
    promises = [await client.post_sample(sampler, n) for n in range(1, 101)]
    await lose(running, *promises)
    assert {company(running, promise) for promise in promises} == {4}
    await lose(running, *promises[:4])
    assert [company(running, promise) for promise in promises[:5]] == [1, 1, 1, 1, 4]
    await lose(running, promises[2])
    with pytest.raises(Failed, match="lost 3 times"):
        await client.result(promises[2])
    running.link.release()
    for promise in promises[:2] + promises[3:]:
        assert await client.result(promise)


async def test_a_creation_a_save_and_a_step_that_end_the_engine(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    running.link.holding = True
    step = await client.post_step(model)
    body = {"model_id": model, "path": "end", "seq_id": client.seq(model), "overwrite": False}
    save = await client.post("save_weights", body)
    created = {"session_id": client.session_id, "model_seq_id": 8, "base_model": "tiny", "lora_config": {"rank": 4}}
    creation = await client.post("create_model", created)
    for promise in (step, save, creation):
        await lose(running, promise)
        await lose(running, promise)
        with pytest.raises(Failed, match="lost twice"):
            await client.result(promise)
    running.link.holding = False
    running.link.release()
    # The step that failed took its gradients with it.
    assert await client.forward_backward(model, 3)
    assert (await client.optim_step(model))["weight"] == pytest.approx(4 - 0.1 * (0.03 + 0.4))
    assert await client.save_state(model, "end")


async def test_a_replay_that_ends_the_engine_costs_its_run_and_no_other(running: Running) -> None:
    client = await running.client()
    model, other = await client.create_model(), await client.create_model()
    promise = await client.post_pass(model, 9)
    await client.result(promise)
    running.link.holding = True
    for _ in range(2):
        await lose(running, promise)
    running.link.release()
    with pytest.raises(Failed, match="could not be rebuilt after a restart: the engine was lost twice") as failed:
        await client.optim_step(model)
    assert failed.value.category == "server"
    assert await client.forward_backward(other, 1)
    await lose(running)
    assert await client.forward_backward(other, 1)


async def internal(running: Running, kind: OpKind) -> str:
    """Wait for an operation of the service's own and return its id."""
    await soon(lambda: any(op.kind is kind for op in running.link.submitted))
    return next(op.request_id for op in running.link.submitted if op.kind is kind)


async def test_a_recovery_point_that_ends_the_engine_is_not_taken_and_the_run_goes_on(start: Start) -> None:
    running = await start(recovery_interval_s=1e-9)
    client = await running.client()
    model = await client.create_model()
    for steps in (1, 2):
        await client.forward_backward(model, 9)
        running.link.holding = True
        promise = await client.post_step(model)
        point = await internal(running, OpKind.SAVE_RECOVERY_POINT)
        running.link.kill(SEGV, "crashed", [point])
        running.link.holding = False
        running.link.revive()
        assert (await client.result(promise))["metrics"]["steps"] == steps
        await up(running)
    await client.forward_backward(model, 9)
    assert (await client.optim_step(model))["steps"] == 3
    assert OpKind.SAVE_RECOVERY_POINT not in [op.kind for op in running.link.submitted]
    assert await metric(running, 'tinsmith_operations_given_up_total{kind="save_recovery_point"}') == "1.0"


async def test_a_state_that_ends_the_engine_when_it_is_loaded_costs_its_run(start: Start) -> None:
    running = await start(recovery_interval_s=1e-9)
    client = await running.client()
    model, other = await client.create_model(), await client.create_model()
    await client.forward_backward(model, 9)
    await client.optim_step(model)
    await soon(lambda: bool(running.service.core.live.runs[model].points))
    running.link.holding = True
    await lose(running)
    for _ in range(2):
        await lose_with(running, [await internal(running, OpKind.LOAD_STATE)])
    running.link.release()
    with pytest.raises(Failed, match="could not be rebuilt after a restart: the engine was lost twice"):
        await client.forward_backward(model, 9)
    assert await client.forward_backward(other, 1)


async def test_a_sampler_that_ends_the_engine_when_it_is_loaded_is_not_loaded_again(running: Running) -> None:
    client = await running.client()
    sampler, other = await client.sampler(base_model="tiny"), await client.sampler(base_model="tiny")
    running.link.holding = True
    promise = await client.post_sample(sampler)
    await lose(running)
    for _ in range(2):
        await lose_with(running, [await internal(running, OpKind.LOAD_SAMPLER)])
    await refused(client, promise)
    running.link.release()
    await refused(client, await client.post_sample(sampler, 1))
    assert await client.sample(other)


async def refused(client: Client, promise: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="its weights cannot be loaded: the engine was lost twice"):
        await client.result(promise)


async def test_a_snapshot_that_ends_the_engine_when_it_is_written_costs_its_sampler(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.flushing = False
    body = {"model_id": model, "seq_id": client.seq(model), "sampling_session_seq_id": next(client.samplers)}
    promise = await client.post("save_weights_for_sampler", body)
    sampler = (await client.result(promise))["sampling_session_id"]
    assert await client.sample(sampler)
    for _ in range(2):
        await lose(running, promise)
    with pytest.raises(Failed, match="it cannot be kept: the engine was lost twice"):
        await client.sample(sampler, 1)
    await lose(running)
    assert OpKind.SNAPSHOT not in [op.kind for op in running.link.submitted]
    running.link.flushing = True
    await client.forward_backward(model, 1)
    assert await client.sample(await client.snapshot(model))


async def test_what_was_given_up_stays_so_after_a_restart_of_the_service(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    restarting.running.link.holding = True
    poison, later = await client.post_pass(model, 6), await client.post_pass(model, 5)
    for _ in range(2):
        await lose(restarting.running, poison)
    with pytest.raises(Failed, match="lost twice"):
        await client.result(poison)
    await restarting.kill(client)
    with pytest.raises(Failed, match="lost twice"):
        await client.result(poison)
    assert await client.result(later)
