"""What a killed script had not saved: the next embedded service rebuilds it and makes a checkpoint of it."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest
from sqlalchemy import text, update

from tests.server.client import Client
from tests.server.conftest import Running, Start, soon
from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.server.store.db.tables import SessionRow
from tinsmith.server.store.journal import run_log
from tinsmith.server.store.unsaved import KEPT_S, TRIES
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 210)]


async def _embedded(start: Start, link: FakeLink | None = None, **options: object) -> tuple[Running, Client]:
    """Start an embedded service as a script does, and open a session."""
    running = await start(link, journal=False, owner="local", **options)
    for info in running.link.infos:
        await running.service.left_behind.recover(info)
    client = Client(running.http())
    await client.open()
    return running, client


async def _step(client: Client, model: str, token: int = 9) -> None:
    await client.forward_backward(model, token)
    await client.optim_step(model)


async def _found(client: Client) -> list[dict[str, object]]:
    return (await client.get("checkpoints"))["checkpoints"]


def _root(running: Running) -> Path:
    return running.service.core.data_folder.root


async def _recovered(running: Running, client: Client, model: str) -> float:
    """Load what was recovered of a run; return its weight."""
    loaded = await client.load(f"tinker://{model}/weights/recovered")
    return running.link.models[loaded].weight


async def test_the_next_start_saves_what_a_killed_script_had_trained(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    for token in (9, 4, 7):
        await _step(client, model, token)
        await client.snapshot(model)
    expected = first.link.models[model].weight
    await client.forward_backward(model, 5)  # of a step that was not taken
    await first.crash()
    second, after = await _embedded(start)
    [one] = await _found(after)
    assert one["tinker_path"] == f"tinker://{model}/weights/recovered"
    assert one["user_metadata"] == {"recovered": "true", "optimizer_steps": "3"}
    assert one["expires_at"] is not None
    assert str(one["tinker_path"]) in caplog.text
    assert "optimizer step 3" in caplog.text
    assert "pid" in caplog.text
    assert await _recovered(second, after, model) == expected
    # The engine has let go of the run itself, and nothing is left of the dead service.
    assert model not in second.link.models
    assert len(list((_root(second) / "instances").glob("*.lock"))) == 1
    assert model not in {path.name for path in (_root(second) / "recovery").iterdir()}
    statuses = second.service.core.db.read(lambda c: list(c.execute(text("SELECT status FROM sessions")).scalars()))
    assert sorted(statuses) == ["active", "interrupted"]
    # Once: the next start has nothing more to save.
    await second.service.stop()
    _, last = await _embedded(start)
    assert len(await _found(last)) == 1


async def test_it_goes_on_from_the_last_recovery_point(start: Start) -> None:
    first, client = await _embedded(start, recovery_interval_s=1e-9)
    model = await client.create_model()
    for token in (9, 4):
        await _step(client, model, token)
    ops = _root(first) / "recovery" / model / "ops"
    await soon(lambda: not [path for path in ops.iterdir() if 0 < int(path.stem) <= 4])
    first.service.recovery_points._interval_s = 1e9
    for token in (3, 6):
        await _step(client, model, token)
    expected = first.link.models[model].weight
    await first.crash()
    second, after = await _embedded(start)
    assert [one["user_metadata"] for one in await _found(after)] == [{"recovered": "true", "optimizer_steps": "4"}]
    assert await _recovered(second, after, model) == expected
    assert OpKind.CREATE_MODEL not in [kind for kind, _ in second.link.ran]


async def test_failed_and_refused_operations_are_passed_over_as_they_were(start: Start) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    first.link.fail[OpKind.FORWARD_BACKWARD] = ("it does not fit", RequestErrorCategory.SERVER)
    for promise in (await client.post_pass(model, 3), await client.post_step(model)):
        with pytest.raises(Exception, match=r"does not fit"):
            await client.result(promise)
    first.link.fail.clear()
    with pytest.raises(Exception, match=r"learning_rate"):
        await client.optim_step(model, learning_rate=-1.0)
    await _step(client, model, 6)
    expected, steps = first.link.models[model].weight, first.link.models[model].steps
    await first.crash()
    second, after = await _embedded(start)
    assert (await _found(after))[0]["user_metadata"] == {"recovered": "true", "optimizer_steps": str(steps)}
    assert await _recovered(second, after, model) == expected


async def test_a_loaded_run_is_rebuilt_from_what_it_loaded(start: Start) -> None:
    first, client = await _embedded(start)
    origin = await client.create_model()
    await _step(client, origin)
    path = await client.save_state(origin, "origin")
    model = await client.load(path)
    await _step(client, model, 2)
    expected = first.link.models[model].weight
    await first.crash()
    second, after = await _embedded(start)
    found = {str(one["tinker_path"]): one.get("user_metadata") for one in await _found(after)}
    # What was saved needs no second checkpoint.
    assert found == {
        path: None,
        f"tinker://{model}/weights/recovered": {"recovered": "true", "optimizer_steps": "2"},
    }
    assert await _recovered(second, after, model) == expected


async def test_a_script_that_ends_leaves_nothing(start: Start) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    assert list((_root(first) / "recovery" / model / "ops").iterdir())
    await first.service.stop()
    assert not list((_root(first) / "recovery").iterdir())
    assert not list((_root(first) / "instances").iterdir())
    _, after = await _embedded(start)
    assert await _found(after) == []


async def test_a_finished_session_leaves_nothing_while_its_script_goes_on(start: Start) -> None:
    running, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "success"}}, 204)
    await soon(lambda: not (_root(running) / "recovery" / model).exists())


async def test_two_scripts_side_by_side(start: Start) -> None:
    first, one = await _embedded(start)
    model = await one.create_model()
    await _step(one, model)
    second, two = await _embedded(start)
    other = await two.create_model()
    await _step(two, other, 3)
    # The second has left the first, which lives, alone.
    assert await _found(two) == []
    await _step(one, model, 4)
    expected = first.link.models[model].weight
    await first.crash()
    third, three = await _embedded(start)
    assert [c["tinker_path"] for c in await _found(three)] == [f"tinker://{model}/weights/recovered"]
    assert await _recovered(third, three, model) == expected
    await _step(two, other, 8)
    assert (await two.optim_step(other))["steps"] == 3
    await second.crash()
    fourth, four = await _embedded(start)
    assert len(await _found(four)) == 2
    assert await _recovered(fourth, four, other) == second.link.models[other].weight


async def test_a_full_disk_is_a_warning_and_costs_what_comes_after(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    expected = first.link.models[model].weight
    write = run_log._write

    def full(path: Path, record: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_log, "_write", full)
    await client.forward_backward(model, 5)
    monkeypatch.setattr(run_log, "_write", write)
    assert (await client.optim_step(model))["steps"] == 2
    await _step(client, model, 1)
    assert caplog.text.count("No space left on device") == 1
    await first.crash()
    second, after = await _embedded(start)
    assert (await _found(after))[0]["user_metadata"] == {"recovered": "true", "optimizer_steps": "1"}
    assert await _recovered(second, after, model) == expected


async def test_it_waits_for_its_base_model_and_a_served_one_leaves_it_alone(start: Start, two_models: FakeLink) -> None:
    first, client = await _embedded(start, two_models)
    model = await client.create_model("other/tiny")
    await _step(client, model)
    expected = first.link.models[model].weight
    await first.crash()
    second, after = await _embedded(start)
    assert await _found(after) == []
    await second.service.stop()
    served = await start()
    await served.service.stop()
    third, last = await _embedded(start, FakeLink([tiny_info("tiny"), tiny_info("other/tiny")]))
    assert await _recovered(third, last, model) == expected


async def test_what_cannot_be_rebuilt_is_tried_again_and_then_given_up(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    await first.crash()
    for number in range(TRIES):
        broken = FakeLink()
        broken.fail[OpKind.OPTIM_STEP] = ("out of memory", RequestErrorCategory.SERVER)
        running, after = await _embedded(start, broken)
        assert "out of memory" in caplog.text
        assert ("it is given up" if number == TRIES - 1 else "the next start tries again") in caplog.text
        assert await _found(after) == []
        assert not list((_root(running) / "checkpoints").glob("*/*/*"))
        await running.service.stop()
    assert not list((_root(first) / "recovery").iterdir())
    assert not list((_root(first) / "instances").iterdir())


async def test_damage_is_told_and_ends_what_is_rebuilt(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    expected = first.link.models[model].weight
    await _step(client, model)
    path = _root(first) / "recovery" / model / "ops" / f"{3:012d}.done"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    await first.crash()
    second, after = await _embedded(start)
    assert f"{path}: its body is not what was written" in caplog.text
    assert (await _found(after))[0]["user_metadata"] == {"recovered": "true", "optimizer_steps": "1"}
    assert await _recovered(second, after, model) == expected


async def test_an_engine_that_is_lost_meanwhile_ends_no_script(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    await first.crash()
    running = await start(journal=False, owner="local")
    running.link.holding = True
    recovering = asyncio.ensure_future(running.service.left_behind.recover(running.link.infos[0]))
    await soon(lambda: bool(running.link.submitted))
    running.link.kill()
    running.link.revive()
    await recovering
    assert "the engine was lost meanwhile; the next start tries again" in caplog.text


async def test_a_stop_leaves_it_to_the_next_start(start: Start) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    expected = first.link.models[model].weight
    await first.crash()
    for _ in range(TRIES):
        running = await start(journal=False, owner="local")
        running.link.holding = True
        recovering = asyncio.ensure_future(running.service.left_behind.recover(running.link.infos[0]))
        await soon(lambda link=running.link: bool(link.submitted))
        await running.service.stop()
        await recovering
    second, after = await _embedded(start)
    assert await _recovered(second, after, model) == expected


async def test_what_nobody_came_for_in_a_week_goes(start: Start) -> None:
    first, client = await _embedded(start)
    model = await client.create_model()
    await _step(client, model)
    old = first.service.core.clock.wall() - KEPT_S - 1
    await first.service.core.db.write(lambda c: c.execute(update(SessionRow).values(last_seen_at=old)))
    await first.crash()
    second, after = await _embedded(start)
    assert await _found(after) == []
    assert not list((_root(second) / "recovery").iterdir())


async def test_another_checkpoint_of_that_name_stays(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first, client = await _embedded(start)
    model = await client.create_model()
    await client.save_state(model, "recovered")
    await _step(client, model)
    await first.crash()
    _, after = await _embedded(start)
    paths = {str(one["tinker_path"]).rpartition("/")[2] for one in await _found(after)}
    assert paths == {"recovered", "recovered-2"}
