"""What was stored comes back as it was written, or its future fails and names it; one bad row stops nobody else."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.server.client import Client, Failed, datum
from tests.server.conftest import Restarting, Running, engine_dies
from tinsmith.types.codec import encode_forward_backward_request

pytestmark = [pytest.mark.anyio, pytest.mark.row(211)]

LARGE = [datum(*range(60)) for _ in range(400)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
}


async def large_pass(client: Client, model: str) -> dict[str, Any]:
    body = encode_forward_backward_request(model, client.seq(model), LARGE, "cross_entropy")
    return await client.post("forward_backward", body)


def blob(running: Running, promise: dict[str, Any], kind: str) -> Path:
    return running.service.core.data_folder.root / "blobs" / f"{promise['request_id']}.{kind}"


async def change(running: Running, values: str, where: str, **fields: object) -> None:
    """Change rows of the journal behind the service's back."""
    statement = text(f"UPDATE operations SET {values} WHERE {where}")
    await running.service.core.db.write(lambda connection: connection.execute(statement, fields))


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_result_file_fails_its_future_and_is_named(running: Running, damage: str) -> None:
    client = await running.client()
    model = await client.create_model()
    promise = await large_pass(client, model)
    assert await client.result(promise)
    assert await client.result(promise)  # from the disk
    DAMAGES[damage](blob(running, promise, "result"))
    for _ in range(2):
        with pytest.raises(Failed, match=rf"journal file {promise['request_id']}\.result is (damaged|gone)") as failed:
            await client.result(promise)
        assert failed.value.category == "server"
    assert await client.optim_step(model)  # the pass itself did what it was to do


@pytest.mark.parametrize(
    "values",
    ["result = x'00'", "result = NULL", "result = x''", "media_type = 'application/x-protobuf'"],
)
async def test_a_damaged_result_in_the_database_fails_its_future(restarting: Restarting, values: str) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    promise = await client.post_step(model)
    assert await client.result(promise)
    await change(restarting.running, values, "request_id = :id", id=promise["request_id"])
    await restarting.kill(client)
    with pytest.raises(Failed, match=r"the result of this operation is lost: its row in the journal is") as failed:
        await client.result(promise)
    assert failed.value.category == "server"


async def test_results_of_two_operations_that_changed_places_are_told(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    promises = [await large_pass(client, model)]
    await client.optim_step(model)
    promises.append(await large_pass(client, model))
    for promise in promises:
        await client.result(promise)
    one, other = (blob(running, promise, "result") for promise in promises)
    one.rename(one.with_suffix(".x"))
    other.rename(one)
    one.with_suffix(".x").rename(other)
    for promise in promises:
        with pytest.raises(Failed, match="damaged"):
            await client.result(promise)


async def test_a_result_without_a_digest_is_read_as_it_is(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    promises = [await large_pass(client, model), await client.post_step(model)]
    wanted = [await client.result(promise) for promise in promises]
    await change(restarting.running, "outcome_digest = NULL", "TRUE")
    await restarting.kill(client)
    again = [await client.result(promise) for promise in promises]
    assert again[0].metrics == wanted[0].metrics
    assert again[1] == wanted[1]


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_body_that_is_damaged_before_the_engine_reads_it_is_not_computed_with(
    running: Running, damage: str
) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await large_pass(client, model)
    DAMAGES[damage](blob(running, promise, "body"))
    running.link.release()
    with pytest.raises(Failed, match=rf"journal file {promise['request_id']}\.body is (damaged|gone)") as failed:
        await client.result(promise)
    assert failed.value.category == "server"


# -- rows ------------------------------------------------------------------------------------------------------------

BAD_ARGS = ["'{\"version\": 2, '", "'[]'", "'null'", "x'ff00fe'", "''", "7"]
BAD_COLUMNS = [
    "kind = 'teleport'",
    "seq_id = 'abc'",
    "state = 'dno'",
    "owner = x'ff'",
    "args = replace(args, '0.1', '0.9')",
]


@pytest.mark.parametrize("values", [*(f"args = {args}" for args in BAD_ARGS), *BAD_COLUMNS])
async def test_an_unreadable_row_costs_its_run_and_nothing_else(
    restarting: Restarting, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model, other = await client.create_model(), await client.create_model()
    for one in (model, other):
        await client.forward_backward(one, 9)
        step = await client.optim_step(one)
    [row] = [r for r in restarting.running.service.core.futures.records() if r.model_id == model and r.seq_id == 2]
    await change(restarting.running, values, "request_id = :id", id=row.request_id)
    with caplog.at_level(logging.ERROR, "tinsmith.server"):
        await restarting.kill(client)
    named = [
        line for line in caplog.messages if re.match(rf"journal: operation {row.request_id} .* cannot be read", line)
    ]
    assert len(named) == 1, caplog.messages
    assert "\n" not in named[0]
    with pytest.raises(Failed, match=r"could not be rebuilt after a restart: .*; create a new client") as failed:
        await client.optim_step(model)
    assert failed.value.category == "server"
    assert (await client.optim_step(other))["weight"] == pytest.approx(step["weight"])
    assert await client.create_model()


@pytest.mark.parametrize("args", BAD_ARGS)
async def test_an_unreadable_row_that_was_waiting_fails_and_its_run_goes_on(restarting: Restarting, args: str) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    before = await client.optim_step(model)
    restarting.running.link.holding = True
    bad, step = await client.post_pass(model, 5), await client.post_step(model)
    await change(restarting.running, f"args = {args}", "request_id = :id", id=bad["request_id"])
    await restarting.kill(client)
    with pytest.raises(Failed, match="cannot be read") as failed:
        await client.result(bad)
    assert failed.value.category == "server"
    # The step lacks the gradients of the pass: it fails, and the weights stay.
    with pytest.raises(Failed):
        await client.result(step)
    await client.forward_backward(model, 0)
    assert (await client.optim_step(model))["steps"] == before["steps"] + 1


async def test_damage_is_still_known_after_the_engine_was_lost(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    restarting.running.link.holding = True
    bad = await client.post_pass(model, 5)
    await change(restarting.running, "args = 'x'", "request_id = :id", id=bad["request_id"])
    await restarting.kill(client)
    await engine_dies(restarting.running)
    with pytest.raises(Failed, match="cannot be read"):
        await client.result(bad)
    await client.forward_backward(model, 9)
    with pytest.raises(Failed):
        await client.optim_step(model)
    await restarting.kill(client)
    with pytest.raises(Failed, match="cannot be read"):
        await client.result(bad)


async def test_blobs_are_kept_beside_a_damaged_row(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    promise = await large_pass(client, model)
    await client.result(promise)
    await change(restarting.running, "result_blob = x'ff'", "request_id = :id", id=promise["request_id"])
    await restarting.kill(client)
    assert blob(restarting.running, promise, "result").exists()


async def test_a_database_that_was_cut_is_named_in_one_line_or_costs_only_what_was_cut(restarting: Restarting) -> None:
    """A journal cut in the middle of a record: the pages of the last ones are gone from the file."""
    client = await restarting.begin()
    model = await client.create_model()
    first = await client.post_pass(model, 1)
    wanted = await client.result(first)
    other = await client.create_model()
    for number in range(30):
        await client.result(await client.post_pass(other, *range(number + 20)))
    root = restarting.running.service.core.data_folder.root
    await restarting.running.crash()
    with sqlite3.connect(root / "tinsmith.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.truncate(root / "tinsmith.db", (root / "tinsmith.db").stat().st_size - 1000)
    try:
        restarting.running = await restarting.start()
    except Exception as error:
        assert re.fullmatch(r"database: it cannot be used: .*", str(error)), error
        return
    client.http = restarting.running.http(restarting.key)
    assert (await client.result(first)).metrics == wanted.metrics
