"""Sampling sessions that their client closes: what they held is freed, what they owe is paid, recovery goes without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.server.client import Failed
from tests.server.conftest import Restarting, Running, Start, engine_dies, soon
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.types.engine_messages.host_events import Flushed
from tinsmith.types.engine_messages.operations import OpKind, TakeSnapshot

pytestmark = pytest.mark.anyio


def folders(running: Running) -> list[str]:
    return sorted(path.name for path in (running.service.core.data_folder.root / "samplers").glob("*"))


async def test_closing_frees_memory_and_disk_and_leaves_the_others_alone(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    samplers = [await client.snapshot(model) for _ in range(3)]
    saved = await client.sampler(model_path=await client.save_sampler(model, "kept"))
    base = await client.sampler(base_model="tiny")
    await soon(lambda: folders(running) == sorted([*samplers, saved]))
    for closed in (samplers[1], saved, base):
        await client.close_sampler(closed)
    await soon(lambda: folders(running) == [samplers[0], samplers[2]])
    assert sorted(running.link.samplers) == [samplers[0], samplers[2]]
    for left in (samplers[0], samplers[2]):
        assert await client.sample(left)
    for closed in (samplers[1], saved, base):
        with pytest.raises(Failed, match="has not ended"):
            await client.sample(closed)
        await client.get(f"samplers/{closed}", 404)
        await client.close_sampler(closed, 404)
    assert (await client.get(f"sessions/{client.session_id}"))["sampler_ids"] == [samplers[0], samplers[2]]
    assert await client.sample(await client.sampler(model_path=f"tinker://{model}/sampler_weights/kept"))


async def test_samples_that_were_accepted_before_are_carried_out(running: Running) -> None:
    client = await running.client()
    sampler = await client.snapshot(await client.create_model())
    running.link.holding = True
    waiting = [await client.post_sample(sampler, seq) for seq in range(3)]
    for _ in range(2):
        await client.close_sampler(sampler)
    with pytest.raises(Failed, match="has not ended"):
        await client.sample(sampler, 3)
    assert folders(running) == [sampler]
    running.link.release()
    for promise in waiting:
        assert await client.result(promise)
    await soon(lambda: folders(running) == [] and not running.link.samplers)


async def test_a_snapshot_that_is_still_to_come_is_made_and_let_go(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    body = {"model_id": model, "seq_id": client.seq(model), "sampling_session_seq_id": 0}
    promise = await client.post("save_weights_for_sampler", body)
    sampler = f"{client.session_id}:sample:0"
    await client.close_sampler(sampler)
    running.link.release()
    assert (await client.result(promise))["sampling_session_id"] == sampler
    await soon(lambda: sampler not in running.service.core.live.samplers)
    await soon(lambda: folders(running) == [] and not running.link.samplers)
    await client.get(f"samplers/{sampler}", 404)


async def test_files_that_were_being_written_meanwhile_are_removed(running: Running, tmp_path: Path) -> None:
    running.link.flushing = False
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    await client.close_sampler(sampler)
    await soon(lambda: sampler not in running.service.core.live.samplers)
    written = next(op for op in running.link.submitted if op.kind is OpKind.SNAPSHOT)
    assert isinstance(written.work, TakeSnapshot)
    Path(written.work.folder).mkdir()
    running.link.send(Flushed(written.request_id))
    await soon(lambda: folders(running) == [])


async def test_nobody_closes_what_belongs_to_somebody_else(running: Running) -> None:
    client, other = await running.client(), await running.client("somebody else")
    sampler = await client.snapshot(await client.create_model())
    await other.close_sampler(sampler, 404)
    assert await client.sample(sampler)


async def test_a_journal_that_waited_for_a_snapshot_is_cut_once_that_is_closed(start: Start) -> None:
    running = await start(recovery_interval_s=1e-6)
    running.link.flushing = False
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    for _ in range(2):
        await client.forward_backward(model, 5)
        await client.optim_step(model)
    run = running.service.core.live.runs[model]
    await soon(lambda: len(run.points) > 0)
    assert run.cut == 0 or min(run.ops) == 1
    await client.close_sampler(sampler)
    await soon(lambda: 1 not in run.ops)


@pytest.mark.row(11, 210)
async def test_deaths_after_a_close_rebuild_the_rest(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    closed = await client.snapshot(model)
    await client.forward_backward(model, 9)
    metrics = await client.optim_step(model)
    kept = await client.snapshot(model)
    before = await client.sample(kept, 0, params={"seed": 1})
    await client.close_sampler(closed)
    await soon(lambda: closed not in restarting.running.service.core.live.samplers)
    await engine_dies(restarting.running)
    await soon(lambda: restarting.running.link.models[model].weight == pytest.approx(metrics["weight"]))
    await restarting.kill(client)
    assert closed not in restarting.running.service.core.live.samplers
    after = await client.sample(kept, 1, params={"seed": 1})
    assert after.sequences[0].tokens == before.sequences[0].tokens
    assert restarting.running.link.models[model].weight == pytest.approx(metrics["weight"])
    assert folders(restarting.running) == [kept]


def test_a_folder_can_be_removed_by_several_at_once(tmp_path: Path) -> None:
    folders = DataFolder(tmp_path)

    async def remove_thrice() -> None:
        await asyncio.gather(*(folders.remove("full") for _ in range(3)))

    for _ in range(20):
        (tmp_path / "full").mkdir()
        for n in range(30):
            (tmp_path / "full" / str(n)).touch()
        asyncio.run(remove_thrice())
        assert not (tmp_path / "full").exists()


async def test_the_end_of_a_session_removes_what_a_dead_engine_was_writing(running: Running) -> None:
    client = await running.client()
    sampler = await client.snapshot(await client.create_model())
    half = running.service.core.data_folder.root / "samplers" / f".{sampler}.0a1b.tmp"
    half.mkdir()
    await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "success"}}, 204)
    await soon(lambda: not half.exists() and not half.with_name(sampler).exists())
