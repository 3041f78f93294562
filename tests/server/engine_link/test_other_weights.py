"""A base model whose folder holds other weights after a restart: nothing that began with the old ones goes on."""

from __future__ import annotations

import logging

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running, up
from tests.support.fakes.fake_link import FakeLink, tiny_info

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 211)]

OTHER = r"base model 'tiny' has other weights than before \(digest new, not old\)"


def link(digest: str | None) -> FakeLink:
    return FakeLink([tiny_info().model_copy(update={"weights_digest": digest})])


async def began(restarting: Restarting, digest: str | None = "old") -> Client:
    restarting.running = await restarting.start(link(digest))
    restarting.key = await restarting.running.service.keys.create("local", "test")
    client = Client(restarting.running.http(restarting.key))
    await client.open()
    return client


async def test_runs_and_samplers_fail_and_name_it(restarting: Restarting, caplog: pytest.LogCaptureFixture) -> None:
    client = await began(restarting)
    model = await client.create_model()
    await client.forward_backward(model, 9)
    step = await client.optim_step(model)
    path = await client.save_sampler(model, "w")
    samplers = [
        await client.snapshot(model),
        await client.sampler(base_model="tiny"),
        await client.sampler(model_path=path),
    ]
    before = [(await client.sample(s, 0, params={"seed": 1})).sequences for s in samplers]
    with caplog.at_level(logging.WARNING, "tinsmith.server"):
        await restarting.kill(client, link("new"))
    assert sum("other weights than before" in line for line in caplog.messages) == 1
    with pytest.raises(
        Failed, match=OTHER + "; restart the service with the weights that the run began with"
    ) as failed:
        await client.optim_step(model)
    assert failed.value.category == "server"
    for number, sampler in enumerate(samplers):
        with pytest.raises(Failed, match=OTHER) as failed:
            await client.sample(sampler, 1 + number)
        assert failed.value.category == "server"
    assert not restarting.running.link.models
    assert not restarting.running.link.samplers
    # What begins now, begins with the new ones.
    fresh = await client.create_model()
    assert await client.optim_step(fresh)
    assert await client.sample(await client.sampler(base_model="tiny"))
    # With the old weights back, what began with them goes on; a step was refused meanwhile, and the next one is sound.
    await restarting.kill(client, link("old"))
    assert [(await client.sample(s, 9, params={"seed": 1})).sequences for s in samplers] == before
    assert (await client.optim_step(model))["steps"] == step["steps"] + 1
    with pytest.raises(Failed, match="other weights"):
        await client.optim_step(fresh)


async def test_an_engine_that_comes_back_with_other_weights_within_one_life(restarting: Restarting) -> None:
    client = await began(restarting)
    model, sampler = await client.create_model(), await client.sampler(base_model="tiny")
    await client.sample(sampler)
    running: Running = restarting.running
    running.link.kill()
    waiting = [await client.post_step(model), await client.post_sample(sampler, 1)]
    running.link.infos = link("new").infos
    running.link.revive()
    await up(running)
    for promise in waiting:
        with pytest.raises(Failed, match=OTHER):
            await client.result(promise)


async def test_what_was_only_accepted_begins_with_the_weights_that_come(restarting: Restarting) -> None:
    client = await began(restarting)
    restarting.running.link.holding = True
    creation = await client.post(
        "create_model",
        {"session_id": client.session_id, "model_seq_id": 0, "base_model": "tiny", "lora_config": {"rank": 4}},
    )
    await restarting.kill(client, link("new"))
    model = (await client.result(creation))["model_id"]
    assert await client.optim_step(model)


async def test_the_same_weights_and_unknown_ones_are_no_fault(restarting: Restarting) -> None:
    client = await began(restarting, None)
    model = await client.create_model()
    sampler = await client.sampler(base_model="tiny")
    for number, digest in enumerate((None, "old", "old")):
        await restarting.kill(client, link(digest))
        assert await client.optim_step(model)
        assert await client.sample(sampler, number)
