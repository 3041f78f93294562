"""What preferences are measured against: named at the door, pinned to the run, found again after deletion and death."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running
from tests.support.fakes.fake_link import FakeLink
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import ForwardBackward

pytestmark = pytest.mark.anyio

PAIR = [Datum(tokens=[1, 2], targets=[2, last], weights=[0.0, 1.0]) for last in (3, 4)]


async def post(client: Client, model: str, reference: str | None, seq_id: int | None = None) -> dict:
    config = {} if reference is None else {"reference": reference}
    seq_id = seq_id if seq_id is not None else client.seq(model)
    return await client.post("forward_backward", encode_forward_backward_request(model, seq_id, PAIR, "dpo", config))


def named(link: FakeLink) -> list[str | None]:
    """Return what the engine was told, in order."""
    return [op.work.reference for op in link.submitted if isinstance(op.work, ForwardBackward)]


async def saved(client: Client, name: str = "ref", **fields: bool) -> tuple[str, str]:
    model = await client.create_model()
    await client.forward_backward(model, 9)
    await client.optim_step(model)
    return model, await client.save_state(model, name, **fields)


async def delete(client: Client, model: str, name: str = "ref") -> None:
    await client.http.delete(f"/api/v1/training_runs/{model}/checkpoints/weights/{name}")


@pytest.mark.row(90)
async def test_the_engine_is_told_of_a_folder_of_the_run_s_own(running: Running) -> None:
    client = await running.client()
    owner, path = await saved(client)
    model = await client.create_model()
    for reference in (None, "base", path, path):
        await client.result(await post(client, model, reference))
    nothing, base, first, again = named(running.link)[-4:]
    assert (nothing, base) == (None, "base")
    assert first == again
    folder = Path(first or "")
    assert folder.parent == running.service.core.data_folder.root / "recovery" / model
    weight = running.link.models[owner].weight
    await delete(client, owner)
    assert json.loads((folder / "weights.json").read_text())["weight"] == weight
    # By name, too: the run holds what it has named.
    await client.result(await post(client, model, path))
    assert named(running.link)[-1] == first


@pytest.mark.row(90)
async def test_other_weights_under_a_name_are_another_reference(running: Running) -> None:
    client = await running.client()
    owner, path = await saved(client)
    model = await client.create_model()
    await client.result(await post(client, model, path))
    await client.forward_backward(owner, 5)
    await client.optim_step(owner)
    await client.save_state(owner, "ref", overwrite=True)
    await client.result(await post(client, model, path))
    first, second = named(running.link)[-2:]
    assert first != second
    assert second is not None
    assert json.loads(Path(second, "weights.json").read_text())["weight"] == running.link.models[owner].weight
    await delete(client, owner)
    await client.result(await post(client, model, path))
    assert named(running.link)[-1] == second


@pytest.mark.row(36, 90)
async def test_references_that_are_not_there_fail_by_name_and_leave_nothing(running: Running) -> None:
    client, stranger = await running.client(), await running.client("somebody else")
    owner, path = await saved(client)
    model, foreign = await client.create_model(), await stranger.create_model()
    for someone, run, reference, message in (
        (client, model, f"{path}-7", "ref-7"),
        (client, model, "tinker://x", "weights/NAME"),
        (stranger, foreign, path, "a checkpoint of yours"),
    ):
        with pytest.raises(Failed, match=rf"loss_fn_config\['reference'\].*{message}") as failed:
            await someone.result(await post(someone, run, reference))
        assert failed.value.category == "user"
    await delete(client, owner)
    with pytest.raises(Failed, match="a checkpoint of yours"):
        await client.result(await post(client, model, path))
    assert not list((running.service.core.data_folder.root / "recovery").glob("*/reference*"))


@pytest.mark.row(90, 210)
async def test_a_reference_is_found_after_a_death(restarting: Restarting) -> None:
    client = await restarting.begin()
    owner, path = await saved(client)
    model = await client.create_model()
    await client.result(await post(client, model, path))
    await delete(client, owner)
    (first,) = [one for one in named(restarting.running.link) if one]
    await restarting.kill(client)
    assert [one for one in named(restarting.running.link) if one] == [first]
    await client.result(await post(client, model, path))
    assert named(restarting.running.link)[-1] == first
    assert Path(first).is_dir()


async def test_requests_side_by_side_pin_once(running: Running) -> None:
    client = await running.client()
    _, path = await saved(client)
    model = await client.create_model()
    promises = await asyncio.gather(*(post(client, model, path, seq_id=n) for n in range(1, 7)))
    for promise in promises:
        await client.result(promise)
    assert len(set(named(running.link)[-6:])) == 1
    assert len(list((running.service.core.data_folder.root / "recovery" / model).iterdir())) == 1
