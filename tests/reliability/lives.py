"""A real service on a real journal, through many lives, and the requests of its clients."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
from pathlib import Path
from queue import Empty
from typing import Any
from unittest import mock

import anyio.to_thread
import httpx
from sqlalchemy.exc import OperationalError

from tests.reliability.hand_host import BASE, HandLink, MarkEngine
from tests.reliability.reference import Asked
from tests.server.conftest import Running
from tinsmith.server.engine_link import outcomes
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.journal import journal
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response

PROTOBUF = "application/x-protobuf"
TENANTS = 2
# Far more than any program needs; what has not come to rest by then never will.
_MOST_BEATS = 5000


class Refused(Exception):
    """The service could not take a request now; its client repeats it."""


@functools.cache
def _template() -> tuple[Path, list[str]]:
    """Return a data folder with a database and keys, which takes longer to make than to copy."""
    folder = Path(tempfile.mkdtemp(prefix="tinsmith-histories-"))

    async def make() -> list[str]:
        settings = Settings(home=folder / "data")
        service = Service(settings, HandLink(settings, lambda engine: None), BaseModels({BASE: folder}))
        await service.start()
        await service.wait_ready()
        keys = [await service.keys.create(f"tenant {n}", "test") for n in range(TENANTS)]
        await service.stop()
        return keys

    return folder, asyncio.run(make())


class Lives:
    """A service that is killed and started again on one data folder.

    Attributes:
        disk_full: nothing can be stored.
    """

    def __init__(self) -> None:
        template, self.keys = _template()
        self._models = template
        self.folder = Path(tempfile.mkdtemp(prefix="tinsmith-history-", dir=template))
        shutil.copytree(template / "data", self.folder / "data")
        self.loop = asyncio.new_event_loop()
        self.disk_full = False
        self.running: Running | None = None
        # Waits that only keep a real service calm.
        self._patches = [
            mock.patch.object(outcomes, "_RETRY_S", (0.001,)),
            mock.patch("tinsmith.scheduler.flusher._FIRST_RETRY_S", 0.001),
        ]
        for patch in self._patches:
            patch.start()

    @property
    def service(self) -> Service:
        """The service that is alive."""
        assert self.running is not None
        return self.running.service

    @property
    def link(self) -> HandLink:
        """The way to its engine."""
        assert self.running is not None
        return self.running.link  # pyright: ignore[reportReturnType]

    def do(self, work: Any) -> Any:
        """Run a coroutine; between these calls nothing of the service moves."""
        return self.loop.run_until_complete(work)

    # -- life and death -----------------------------------------------------------------------------------------------

    async def begin(self, often: bool = False, files: bool = False) -> None:
        """Start the service.

        Args:
            often: take recovery points at every step, and let samplers rest whenever they may.
            files: keep bodies and results as files, however small.
        """
        calm = 1e-9 if often else 1e9
        settings = Settings(
            home=self.folder / "data",
            recovery_interval_s=calm,
            sampler_rest_s=calm,
            long_poll_s=0.001,
            session_timeout_s=1e9,
        )
        journal.INLINE_BYTES = 0 if files else 64 * 1024
        service = Service(settings, HandLink(settings, self._born), BaseModels({BASE: self._models}))
        await service.start()
        self.running = Running(service, service._link)  # pyright: ignore[reportArgumentType]
        self._http = [self.running.http(key) for key in self.keys]
        commit = service.core.db.writer._commit

        def commit_if_possible(items: list[Any]) -> None:
            if not self.disk_full:
                commit(items)
            for item in items if self.disk_full else ():
                item.error = OperationalError("COMMIT", {}, Exception("database or disk is full"))

        service.core.db.writer._commit = commit_if_possible

    def _born(self, engine: MarkEngine) -> None:
        engine.disk_full = self.disk_full

    def fill_disk(self, full: bool) -> None:
        """Let nothing more be stored, or again."""
        self.disk_full = self.link.engine.disk_full = full

    async def kill(self) -> None:
        """Kill service and engine; what is not committed is lost."""
        assert self.running is not None
        queue = self.service.core.db.writer._queue
        try:
            while True:
                queue.get_nowait()
        except Empty:
            pass
        await self.link.close()
        await self.running.crash()
        self.running = None

    async def end(self) -> None:
        """Stop in good order."""
        for patch in self._patches:
            patch.stop()
        journal.INLINE_BYTES = 64 * 1024
        if self.running is not None:
            await self.service.stop()

    def close(self) -> None:
        """Remove what is left."""
        self.do(self.end())
        self.loop.close()
        shutil.rmtree(self.folder)

    # -- work ---------------------------------------------------------------------------------------------------------

    async def beat(self) -> bool:
        """Let the engine take one turn and the service follow; return whether either has more to do."""
        more = self.link.turn()
        if not self.disk_full:
            await self.service.core.db.write(lambda connection: None)  # what came before is committed
        await anyio.to_thread.run_sync(lambda: None)
        for _ in range(4):
            await asyncio.sleep(0)
        return (
            more or bool(self.service.outcomes._storing._tasks) or self.link.writing or not self.service.dispatcher.open
        )

    async def settle(self) -> None:
        """Work until nothing moves any more."""
        quiet = 0
        for _ in range(_MOST_BEATS):
            self.link.revive()
            quiet = 0 if await self.beat() else quiet + 1
            if quiet == 4:
                return
            if quiet == 0 and self.link.writing:
                await asyncio.sleep(0.0005)
        raise AssertionError("the service did not come to rest")

    # -- requests -----------------------------------------------------------------------------------------------------

    async def post(self, tenant: int, path: str, body: dict[str, Any] | bytes) -> dict[str, Any]:
        """Post a request and return the answer.

        Raises:
            Refused: it has to be repeated.
        """
        if isinstance(body, bytes):
            answer = await self._http[tenant].post(f"/api/v1/{path}", content=body, headers={"Content-Type": PROTOBUF})
        else:
            answer = await self._http[tenant].post(f"/api/v1/{path}", json=body)
        if answer.status_code >= 500:
            assert self.disk_full, f"{path}: {answer.status_code} {answer.text}"
            raise Refused
        assert answer.status_code in (200, 204), f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else {}

    async def read(self, asked: Asked) -> Any:
        """Return what a future holds: the result in plain words, an error's category, or None while it is open."""
        answer: httpx.Response = await self._http[asked.tenant].post(
            "/api/v1/retrieve_future",
            json={"request_id": asked.request_id},
            headers={"Accept": PROTOBUF},
        )
        if answer.status_code == 408:
            return None
        assert answer.status_code == 200, answer.text
        if answer.headers["content-type"] != PROTOBUF:
            return answer.json()
        if asked.kind == "sample":
            return {"tokens": [list(s.tokens) for s in decode_sample_response(answer.content).sequences]}
        return {"loss": decode_forward_backward_output(answer.content).metrics["loss:sum"]}
