"""What a loss cannot bring back: it fails with its reason, and nothing else fails with it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running, Start, engine_dies, soon
from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.server.store.journal.blobs import OWNER
from tinsmith.types.engine_messages.host_events import Lost
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 210)]


async def test_a_failed_pass_still_fails_its_step_after_a_loss(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    with pytest.raises(Failed):
        await client.forward_backward(model, 9, loss_fn="nothing")
    await engine_dies(running)
    with pytest.raises(Failed, match="failed"):
        await client.optim_step(model)
    # The failed step cleared the gradients: a replay must not bring them back.
    await engine_dies(running)
    await client.forward_backward(model, 3)
    assert (await client.optim_step(model))["weight"] == pytest.approx(4 - 0.1 * (0.03 + 0.4))


@pytest.mark.parametrize("seq_id", [2, 2**30])
async def test_passes_that_never_came_are_not_waited_for_again(running: Running, seq_id: int) -> None:
    client = await running.client()
    model = await client.create_model()
    waiting = await client.post_pass(model, 1, seq_id=seq_id)
    record = running.service.core.futures.find(waiting["request_id"])
    assert record is not None
    running.service.outcomes.fail(record, "seq_id 1 never arrived", RequestErrorCategory.USER)
    await engine_dies(running)
    with pytest.raises(Failed):
        await client.optim_step_at(model, seq_id + 1)
    assert (await client.result(await client.post_step(model, seq_id + 2)))["metrics"]["steps"] == 1


async def test_a_replay_that_fails_is_not_passed_over_in_silence(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    running.link.fail = {OpKind.FORWARD_BACKWARD: ("the device has no memory left", RequestErrorCategory.SERVER)}
    await engine_dies(running)
    await soon(lambda: not running.service.core.live.runs[model].usable)
    running.link.fail = {}
    with pytest.raises(Failed, match="could not be rebuilt after a restart: the device has no memory left") as failed:
        await client.optim_step(model)
    assert failed.value.category == "server"
    assert (await client.get(f"training_runs/{model}"))["corrupted"] is True


async def test_samples_of_a_snapshot_that_was_lost_with_its_run_fail_and_wait_for_nobody(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    running.link.flushing = False
    in_memory = await client.snapshot(model)
    running.link.kill()
    # Accepted while there is no engine, so that it waits for the snapshot.
    waiting = await client.post_sample(in_memory)
    running.link.fail = {OpKind.FORWARD_BACKWARD: ("the device has no memory left", RequestErrorCategory.SERVER)}
    running.link.revive()
    with pytest.raises(Failed, match=r"its weights were not on disk yet, and model .* could not be rebuilt") as failed:
        await client.result(waiting)
    assert failed.value.category == "server"
    # And so do those that come later.
    with pytest.raises(Failed, match="its weights were not on disk yet"):
        await client.result(await client.post_sample(in_memory, 1))


async def test_sessions_that_ended_or_fell_silent_are_not_rebuilt(start: Start) -> None:
    restarting = Restarting(start, session_timeout_s=0.5)
    client = await restarting.begin()
    await client.create_model()
    other = Client(client.http)
    await other.open()
    model = await other.create_model()
    result = await other.post_pass(model, 1)
    await other.result(result)
    await other.post(f"sessions/{other.session_id}/finish", {"reason": {"type": "success"}}, 204)
    await soon(lambda: other.session_id not in restarting.running.service.core.live.sessions)
    # A sweep ends the silent one, which comes some time after the half second.
    await soon(lambda: client.session_id not in restarting.running.service.core.live.sessions)
    await restarting.kill(client)
    other.http = client.http
    assert not restarting.running.link.models
    assert await other.result(result)
    await client.post("session_heartbeat", {"session_id": client.session_id}, 410)


async def test_half_written_files_of_a_killed_service_are_removed(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.save_state(model, "good")
    root = restarting.running.service.core.data_folder.root
    torn = root / "checkpoints" / model / "weights" / ".bad.1234.tmp"
    torn.mkdir()
    (root / "blobs" / "lost.body").write_bytes(b"x")
    await restarting.kill(client)
    assert [f.name for f in torn.parent.iterdir()] == ["good"]
    assert not [path for path in (root / "blobs").iterdir() if not path.name.startswith(OWNER)]


@pytest.mark.row(211)
async def test_a_torn_body_fails_its_run_with_a_clear_message_and_no_other(restarting: Restarting) -> None:
    client = await restarting.begin()
    model, other = await client.create_model(), await client.create_model()
    await client.forward_backward(model, *range(60))
    body = await client.post_pass(other, 1)
    await client.result(body)
    db = restarting.running.service.core.db
    await db.write(
        lambda connection: connection.execute(
            text("UPDATE operations SET body = x'00' WHERE model_id = :m AND seq_id = 1"), {"m": model}
        )
    )
    await restarting.kill(client)
    with pytest.raises(Failed, match="damaged"):
        await client.optim_step(model)
    assert (await client.optim_step(other))["steps"] == 1


async def test_a_base_model_that_one_start_does_not_serve(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    metrics = await client.optim_step(model)
    restarting.running.link.holding = True
    waiting = await client.post_pass(model, 1)
    await restarting.kill(client, FakeLink([tiny_info("other")]))
    for promise in (waiting, await client.post_step(model)):
        with pytest.raises(Failed, match="'tiny' is not served since the last start") as failed:
            await client.result(promise)
        assert failed.value.category == "server"
    await restarting.kill(client)
    rebuilt = restarting.running.link.models
    await soon(lambda: model in rebuilt and rebuilt[model].weight == pytest.approx(metrics["weight"]), seconds=10)
    with pytest.raises(Failed):  # the pass that failed meanwhile belongs to this step
        await client.optim_step(model)
    assert await client.forward_backward(model, 1)
    assert (await client.optim_step(model))["steps"] == 2


async def test_losses_without_a_journal_fail_what_was_going_on(start: Start) -> None:
    running = await start(journal=False, owner="local")
    client = Client(running.http())
    await client.open()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    running.link.send(Lost("out of memory"))
    with pytest.raises(Failed, match="out of memory") as failed:
        await client.result(promise)
    assert failed.value.category == "server"
