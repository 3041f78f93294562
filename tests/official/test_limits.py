"""Limits of a key, and why a result is not there yet, as the official SDK tells its user of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tinker
import uvicorn

from tests.support.fakes.fake_link import FakeLink
from tinsmith.server.http.app import create_app
from tinsmith.server.http.listener import bind
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings

PROMPT, PARAMS = tinker.ModelInput.from_ints([1, 2]), tinker.SamplingParams(max_tokens=4)


class Served:
    """A service with a fake engine on a port of this machine, on a thread of its own."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.link = FakeLink()
        self.service = Service(Settings(home=home, **settings), self.link, BaseModels({"tiny": home}))
        self.loop = asyncio.new_event_loop()
        self.url = self.key = ""
        self._up = threading.Event()
        self._socket = bind("127.0.0.1", 0)
        self._server: uvicorn.Server | None = None
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._run()), daemon=True)

    async def _run(self) -> None:
        await self.service.start()
        await self.service.wait_ready()
        self.key = await self.service.keys.create("local", "test")
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(create_app(self.service), ws="none", log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._up.set()
        await self._server.serve(sockets=[self._socket])
        await self.service.stop()

    def start(self) -> None:
        self.thread.start()
        assert self._up.wait(30)

    def do(self, work: Callable[[], object]) -> None:
        """Run something on the service's loop."""

        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def stop(self) -> None:
        self.service.drain()
        assert self._server is not None
        self._server.should_exit = True
        self.thread.join(30)
        self.loop.close()

    def client(self) -> tinker.ServiceClient:
        return tinker.ServiceClient(base_url=self.url, api_key=self.key)


@contextmanager
def served(home: Path, **settings: Any) -> Iterator[Served]:
    one = Served(home, **settings)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def test_the_sdk_says_why_sampling_is_paused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(tmp_path, long_poll_s=0.05) as here, here.client() as service:
        sampler = service.create_sampling_client(base_model="tiny")
        here.do(lambda: setattr(here.link, "holding", True))
        with caplog.at_level(logging.WARNING, logger="tinker"):
            waiting = sampler.sample(PROMPT, 1, PARAMS)
            here.do(lambda: here.link.kill("exit code -9"))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
        assert "Reason: the engine is starting again after a loss (exit code -9)" in caplog.text
        here.do(here.link.revive)
        here.do(here.link.release)
        assert len(waiting.result(timeout=30).sequences) == 1


def test_the_sdk_waits_where_it_may_and_raises_at_once_where_waiting_would_not_help(tmp_path: Path) -> None:
    limits = {"max_tokens_in_flight_per_key": 8, "max_models_per_key": 1, "max_refusals_per_key": 1}
    with served(tmp_path, **limits) as here, here.client() as service:
        sampler = service.create_sampling_client(base_model="tiny")
        here.do(lambda: setattr(here.link, "holding", True))
        # Six tokens each: the second and third are answered with 429 until the one before is done.
        three = [sampler.sample(PROMPT, 1, PARAMS) for _ in range(3)]
        timer = threading.Timer(0.5, lambda: here.do(here.link.release))
        timer.start()
        assert [len(one.result(timeout=60).sequences) for one in three] == [1, 1, 1]
        service.create_lora_training_client("tiny", rank=4).result(timeout=30)
        with pytest.raises(tinker.RequestFailedError, match="TINSMITH_MAX_MODELS_PER_KEY"):
            service.create_lora_training_client("tiny", rank=4).result(timeout=30)
        # One refusal is kept by now; further ones are the answer itself, and are not sent again.
        for _ in range(2):
            with pytest.raises(tinker.BadRequestError, match="top_p"):
                sampler.sample(PROMPT, 1, tinker.SamplingParams(top_p=2.0)).result(timeout=30)
        with pytest.raises(tinker.BadRequestError, match="TINSMITH_MAX_MODELS_PER_KEY"):
            service.create_lora_training_client("tiny", rank=4).result(timeout=30)
