"""A real service on a real journal, through many lives, and the requests of its clients."""

from __future__ import annotations

import asyncio
import functools
import random
import shutil
import tempfile
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx

from tests.reliability.hand_disk import HandWriter
from tests.reliability.hand_host import BASE, HandLink, MarkEngine
from tests.reliability.hand_loop import HandLoop, at_once
from tests.reliability.reference import Asked
from tests.server.conftest import Running
from tinsmith.server.service import Service
from tinsmith.server.state import records
from tinsmith.server.store import keys
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.db import database
from tinsmith.server.store.journal import journal
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response

PROTOBUF = "application/x-protobuf"
TENANTS = 2
# Far more than any program needs; what has not come to rest by then never will.
_MOST_BEATS = 2000
# Rounds of the event loop in which the service follows what the engine has said.
_ROUNDS = 8

T = TypeVar("T")


class Refused(Exception):
    """The service could not take a request now; its client repeats it."""


@dataclass(frozen=True)
class Life:
    """How a life of the service is set up.

    Attributes:
        often: recovery points are taken at every step, and samplers rest whenever they may.
        files: bodies and results are files, however small.
    """

    often: bool
    files: bool


@functools.cache
def _template() -> tuple[tempfile.TemporaryDirectory[str], list[str]]:
    """Return a data folder with a database and keys, which takes longer to make than to copy."""
    folder = tempfile.TemporaryDirectory(prefix="tinsmith-histories-")

    async def make() -> list[str]:
        settings = Settings(home=Path(folder.name, "data"))
        service = Service(settings, HandLink(settings, lambda engine: None), BaseModels({BASE: Path(folder.name)}))
        await service.start()
        await service.wait_ready()
        keys = [await service.keys.create(f"tenant {n}", "test") for n in range(TENANTS)]
        await service.stop()
        return keys

    return folder, asyncio.run(make())


@functools.cache
def _settings(home: Path, calm: float) -> Settings:
    return Settings(home=home, recovery_interval_s=calm, sampler_rest_s=calm, long_poll_s=0.001, session_timeout_s=1e9)


_connect_once = functools.cache(database._connect)


class Lives:
    """A service that is killed and started again on one data folder."""

    def __init__(self) -> None:
        template, self.keys = _template()
        self._models = Path(template.name)
        # The same for every history, so that they share the statements that SQLAlchemy has compiled.
        self.folder = self._models / "history"
        shutil.copytree(self._models / "data", self.folder / "data")
        self.loop = HandLoop()
        self.running: Running | None = None
        self._patches = [
            mock.patch("anyio.to_thread.run_sync", at_once),
            mock.patch("tinsmith.server.store.db.database.Writer", HandWriter),
            # It has a thread, and changes nothing of what is stored.
            mock.patch("tinsmith.server.store.db.database.Checkpointer"),
            mock.patch("tinsmith.server.store.db.database._connect", _connect_once),
            # What would differ from one time to the next.
            mock.patch.object(records, "_ids", chance := random.Random(0)),
            mock.patch("uuid.uuid4", side_effect=lambda: uuid.UUID(int=chance.getrandbits(128), version=4)),
            mock.patch.object(keys, "_TRUST_S", 1e9),
            # Processes die here; power stays.
            mock.patch("os.fsync", return_value=None),
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

    @property
    def disk(self) -> HandWriter:
        """What stands between the service and its database."""
        writer = self.service.core.db.writer
        assert isinstance(writer, HandWriter)
        return writer

    def do(self, work: Awaitable[T]) -> T:
        """Run a coroutine; between these calls nothing of the service moves."""
        return self.loop.do(work)

    # -- life and death -----------------------------------------------------------------------------------------------

    async def begin(self, life: Life) -> None:
        """Start the service."""
        settings = _settings(self.folder / "data", 1e-9 if life.often else 1e9)
        journal.INLINE_BYTES = 0 if life.files else 64 * 1024
        service = Service(settings, HandLink(settings, self._born), BaseModels({BASE: self._models}))
        await service.start()
        self.running = Running(service, service._link)  # pyright: ignore[reportArgumentType]
        self._http = [self.running.http(key) for key in self.keys]

    def _born(self, engine: MarkEngine) -> None:
        engine.disk_full = self.running is not None and self.disk.full

    def fill_disk(self, full: bool) -> None:
        """Let nothing more be stored, or again."""
        self.disk.full = self.link.engine.disk_full = full

    async def kill(self) -> None:
        """Kill service and engine; what is not committed is lost."""
        assert self.running is not None
        self.disk.lose()
        await self.link.close()
        await self.running.crash()
        self.running = None

    def close(self) -> None:
        """Stop in good order, and remove what is left."""
        try:
            if self.running is not None:
                self.do(self.service.stop())
            self.loop.end()
        finally:
            for patch in self._patches:
                patch.stop()
            journal.INLINE_BYTES = 64 * 1024
            shutil.rmtree(self.folder)

    # -- work ---------------------------------------------------------------------------------------------------------

    async def beats(self, count: int) -> None:
        """Give a dead engine its successor, and take some turns."""
        self.link.revive()
        for _ in range(count):
            await self.beat()

    async def beat(self) -> bool:
        """Let the engine take one turn and the service follow; return whether either has more to do."""
        more = self.link.turn()
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        return more

    async def settle(self) -> None:
        """Work until nothing moves any more."""
        quiet = 0
        for _ in range(_MOST_BEATS):
            self.link.revive()
            if await self.beat():
                quiet = 0
                continue
            waits = self.service.outcomes._storing._tasks or self.link.writing or not self.service.dispatcher.open
            quiet = 0 if waits else quiet + 1
            if quiet == 4:
                return
            # Whoever tries again after a while.
            await asyncio.sleep(1.0)
        raise AssertionError(f"the service did not come to rest in {_MOST_BEATS} beats")

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
            assert self.disk.full, f"{path}: {answer.status_code} {answer.text}"
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
        assert answer.status_code == 200, f"{asked}: {answer.status_code} {answer.text}"
        if answer.headers["content-type"] != PROTOBUF:
            return answer.json()
        if asked.kind == "sample":
            return {"tokens": [list(s.tokens) for s in decode_sample_response(answer.content).sequences]}
        return {"loss": decode_forward_backward_output(answer.content).metrics["loss:sum"]}
