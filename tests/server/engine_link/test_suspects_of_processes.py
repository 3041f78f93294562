"""Real engine processes that die or hang of one operation, beside a tenant who keeps training."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Running, soon
from tests.support.fakes.fake_engine_main import EXIT, FAULT, HANG
from tinsmith.cluster.child import ChildLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 210), pytest.mark.timeout(120)]


@asynccontextmanager
async def serving(home: Path, **options: Any) -> AsyncIterator[tuple[Running, ChildLink]]:
    """A service in this process over an engine process with a fake engine."""
    settings = Settings(home=home, long_poll_s=2.0, recovery_interval_s=1e9, **options)
    link = ChildLink([ModelSpec("tiny", "fake")], settings, "tests.support.fakes.fake_engine_main")
    service = Service(settings, link, BaseModels({"tiny": home.parent}))
    await service.start()
    try:
        await service.wait_ready()
        yield Running(service, link), link  # pyright: ignore[reportArgumentType]
    finally:
        await service.stop()


class Trainer:
    """A tenant who trains step by step until told to stop."""

    def __init__(self, running: Running, client: Client, model: str) -> None:
        self._running = running
        self._client = client
        self._model = model
        self._over = False
        self.steps = 0
        self.task = asyncio.create_task(self._train())

    async def _train(self) -> None:
        while not self._over:
            tokens = range(self.steps + 1, self.steps + 4)
            promises = [await self._client.post_pass(self._model, token, 1) for token in tokens]
            step = await self._client.post_step(self._model)
            for token, promise in zip(tokens, promises, strict=True):
                assert (await self._client.result(promise)).metrics["loss:sum"] == token
            self.steps += 1
            assert (await self._client.result(step))["metrics"]["steps:unique"] == self.steps

    async def end(self) -> None:
        """Stop, and compare the weights with those of a calm run."""
        self._over = True
        await self.task
        path = await self._client.save_state(self._model, "end")
        root = self._running.service.core.data_folder.root
        weights = (root / "checkpoints" / path.removeprefix("tinker://") / "state").read_text()
        assert weights == repr(tuple((n, n + 1, n + 2) for n in range(1, self.steps + 1)))


async def begin(running: Running) -> tuple[Trainer, Client, str]:
    """Return a trainer at work, and another tenant with a model."""
    busy, other = await running.client("busy"), await running.client("other")
    trainer = Trainer(running, busy, await busy.create_model())
    return trainer, other, await other.create_model()


async def test_a_pass_and_a_sample_that_end_the_process(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (running, _):
        trainer, client, model = await begin(running)
        await client.forward_backward(model, 5)
        poison, step = await client.post_pass(model, FAULT), await client.post_step(model)
        with pytest.raises(
            Failed, match=r"lost (twice|3 times) .*: the engine process was killed by signal 11"
        ) as failed:
            await client.result(poison)
        assert failed.value.category == "server"
        with pytest.raises(Failed, match=r"optim_step: .* failed"):
            await client.result(step)
        sampler = await client.sampler(base_model="tiny")
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [EXIT]}]}
        poison, *others = [
            await client.post_sample(sampler, n, params={"seed": 1}, **({"prompt": prompt} if n == 0 else {}))
            for n in range(4)
        ]
        with pytest.raises(Failed, match=r"lost (twice|3 times) .*: the engine process ended with status 1"):
            await client.result(poison)
        for promise in others:
            assert await client.result(promise)
        assert await client.forward_backward(model, 6)
        assert (await client.optim_step(model))["steps:unique"] == 1
        await trainer.end()
        assert running.service.events.lives <= 7


async def test_a_pass_that_hangs(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", engine_stall_s=2) as (running, _):
        trainer, client, model = await begin(running)
        poison = await client.post_pass(model, HANG)
        with pytest.raises(
            Failed, match=r"lost (twice|3 times) .*: the engine process spent more than 2 s in one turn"
        ):
            await client.result(poison)
        assert await client.forward_backward(model, 6)
        await trainer.end()
        assert running.service.events.lives <= 4


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_twenty_kills_from_outside_fail_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (running, link):
        trainer, client, model = await begin(running)
        for life in range(1, 21):
            await soon(lambda life=life: running.service.events.lives >= life, seconds=30)
            promise = await client.post_pass(model, life, 1)
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
            assert (await client.result(promise)).metrics["loss:sum"] == life
        await trainer.end()
        page = (await running.http().get("/metrics")).text
        assert 'tinsmith_engine_losses_total{cause="killed"} 20.0' in page
        assert "tinsmith_operations_given_up_total{" not in page
