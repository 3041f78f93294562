"""A row that cannot be read costs what it is about, in one line that names it, and nothing else."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import text

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting

pytestmark = [pytest.mark.anyio, pytest.mark.row(211)]

NOT_UTF8 = "CAST(x'ff00fe' AS TEXT)"


async def damage(restarting: Restarting, table: str, values: str, where: str = "TRUE") -> None:
    statement = text(f"UPDATE {table} SET {values} WHERE {where}")
    await restarting.running.service.core.db.write(lambda connection: connection.execute(statement))


async def restart(restarting: Restarting, client: Client, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Kill and restart; return what was said of damage."""
    caplog.clear()
    with caplog.at_level(logging.ERROR, "tinsmith.server"):
        await restarting.kill(client)
    said = [line for line in caplog.messages if line.startswith("database: row")]
    assert not [line for line in said if "\n" in line]
    return said


@pytest.mark.parametrize("values", ["lora = '{torn'", f"owner = {NOT_UTF8}", "status = 'odd'", "base_model = x'00'"])
async def test_a_run_that_cannot_be_read_is_corrupted_and_the_others_go_on(
    restarting: Restarting, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model, other = await client.create_model(), await client.create_model()
    step = await client.optim_step(other)
    restarting.running.link.holding = True
    waiting = await client.post_step(model)
    await damage(restarting, "runs", values, f"id = '{model}'")
    [line] = await restart(restarting, client, caplog)
    assert line.startswith(f"database: row '{model}' of runs cannot be read: ")
    for promise in (waiting, await client.post_step(model)):
        with pytest.raises(Failed, match="of runs cannot be read") as failed:
            await client.result(promise)
        assert failed.value.category == "server"
    assert (await client.optim_step(other))["steps"] == step["steps"] + 1
    runs = (await client.get("training_runs"))["training_runs"]
    assert {run["training_run_id"]: run["corrupted"] for run in runs}[other] is False
    if "owner" not in values:  # else nobody can be told of it
        assert (await client.get(f"training_runs/{model}"))["corrupted"] is ("odd" not in values)


@pytest.mark.parametrize("values", ["folder = x'00'", f"base_model = {NOT_UTF8}"])
async def test_a_sampler_that_cannot_be_read_fails_its_samples(
    restarting: Restarting, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    bad, good = await client.snapshot(model), await client.snapshot(model)
    wanted = await client.sample(good, 0, params={"seed": 1})
    await damage(restarting, "samplers", values, f"id = '{bad}'")
    [line] = await restart(restarting, client, caplog)
    assert line.startswith(f"database: row '{bad}' of samplers cannot be read: ")
    with pytest.raises(Failed, match="of samplers cannot be read") as failed:
        await client.sample(bad)
    assert failed.value.category == "server"
    assert (await client.sample(good, 1, params={"seed": 1})).sequences == wanted.sequences


@pytest.mark.parametrize("values", ["tags = 'odd'", "last_seen_at = 'odd'", "status = 'odd'"])
async def test_a_session_goes_on_without_what_cannot_be_read(
    restarting: Restarting, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await damage(restarting, "sessions", values)
    await restart(restarting, client, caplog)
    assert await client.optim_step(model)


@pytest.mark.parametrize("change", [f"UPDATE sessions SET owner = {NOT_UTF8}", "DELETE FROM sessions"])
async def test_what_waits_in_a_session_that_is_lost_is_the_services_fault(
    restarting: Restarting, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    restarting.running.link.holding = True
    body = {"session_id": client.session_id, "model_seq_id": 0, "base_model": "tiny", "lora_config": {"rank": 4}}
    waiting = await client.post("create_model", body)

    def job(connection: object) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # pyright: ignore
        connection.execute(text("DELETE FROM runs"))  # pyright: ignore
        connection.execute(text(change))  # pyright: ignore

    await restarting.running.service.core.db.write(job)
    await restart(restarting, client, caplog)
    with pytest.raises(Failed, match=r"(of|database:) sessions (cannot be read|has no row)") as failed:
        await client.result(waiting)
    assert failed.value.category == "server"
    await client.open()
    assert await client.create_model()


async def test_a_recovery_point_that_cannot_be_read_costs_its_run(
    restarting: Restarting, caplog: pytest.LogCaptureFixture
) -> None:
    restarting.options["recovery_interval_s"] = 1e-9
    client = await restarting.begin()
    model = await client.create_model()
    for _ in range(3):
        await client.forward_backward(model, 5)
        await client.optim_step(model)
    await damage(restarting, "recovery_points", "folder = x'00'")
    lines = await restart(restarting, client, caplog)
    assert lines
    assert all("of recovery_points cannot be read" in line for line in lines)
    with pytest.raises(Failed, match="of recovery_points cannot be read"):
        await client.optim_step(model)


async def test_a_checkpoint_that_cannot_be_read_hides_no_other(
    restarting: Restarting, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    bad, good = await client.save_state(model, "bad"), await client.save_state(model, "good")
    root = restarting.running.service.core.data_folder.root
    for values in ("lora = '{torn'", f"folder = {NOT_UTF8}"):
        await damage(restarting, "checkpoints", values, "name = 'bad'")
        await restart(restarting, client, caplog)
        assert [c["tinker_path"] for c in (await client.get("checkpoints"))["checkpoints"]] == [good]
        assert await client.load(good)
        with pytest.raises(Failed, match="row 1 of checkpoints cannot be read") as failed:
            await client.load(bad)
        assert failed.value.category == "server"
        # Its row may be mended, so its files stay where they are.
        assert (root / "checkpoints" / model / "weights" / "bad" / "state.json").is_file()


async def test_a_key_that_cannot_be_read_is_said_and_the_others_work(restarting: Restarting) -> None:
    client = await restarting.begin()
    other = await restarting.running.client("other")
    await damage(restarting, "api_keys", f"owner = {NOT_UTF8}", "owner = 'other'")
    restarting.running.service.keys._trusted.clear()
    assert (await other.get("checkpoints", 500))["detail"].startswith("database: row 2 of api_keys cannot be read")
    assert (await client.get("checkpoints"))["checkpoints"] == []
    assert [key.owner for key in await restarting.running.service.keys.all()] == ["local"]
