"""`InProcessLink`: an engine host on a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping

from tinsmith.cluster.loading import load_engine, load_engines
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.model_info import BaseModelInfo
from tinsmith.types.operations import Event, Lost, Operation

log = logging.getLogger("tinsmith.cluster")


class InProcessLink:
    """Runs an `EngineHost` on a daemon thread; events come back on the event loop that called `start`.

    Args:
        models: base models to load at the start, name to folder or hub id.
        settings: device, dtype and limits.
    """

    def __init__(self, models: Mapping[str, str], settings: Settings) -> None:
        self._models = dict(models)
        self._settings = settings
        self._host: EngineHost | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_event: Callable[[Event], None] | None = None
        self._events: deque[Event] = deque()
        self._early: deque[Operation] = deque()

    async def start(self, on_event: Callable[[Event], None]) -> None:
        """Load the models and start the host.

        Raises:
            StartupError: a model cannot be served.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._on_event = on_event
        started: asyncio.Future[EngineHost] = loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="tinsmith-engine", daemon=True)
        self._thread.start()
        self._host = host = await started
        while self._early:
            host.submit(self._early.popleft())

    def submit(self, op: Operation) -> None:
        """Hand over an operation; never blocks."""
        if self._host is None:
            self._early.append(op)
        else:
            self._host.submit(op)

    def cancel(self, op_id: str) -> None:
        """Ask for a sampling operation to be dropped; advisory."""
        if self._host is not None:
            self._host.cancel(op_id)

    async def ensure_model(self, name: str, source: str) -> BaseModelInfo:
        """Load a further base model, between two turns of the host.

        Raises:
            StartupError: there is no such model, or it cannot be served.
        """
        host = self._host
        if host is None:
            raise RuntimeError("the link has not been started")
        settings = self._settings
        return await asyncio.wrap_future(host.call(lambda: host.add_engine(name, load_engine(name, source, settings))))

    async def close(self) -> None:
        """Stop the host after its turn and wait until its thread is gone."""
        if self._host is not None:
            self._host.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # -- on the engine's thread ---------------------------------------------------------------------------------------

    def _run(self, started: asyncio.Future[EngineHost]) -> None:
        try:
            host = EngineHost(load_engines(self._models, self._settings), self._emit, self._settings)
        except Exception as error:
            self._call(self._refuse, started, error)
            return
        self._call(self._accept, started, host)
        try:
            host.run()
        except Exception as error:
            self._emit(Lost(f"{type(error).__name__}: {error}"))

    def _emit(self, event: Event) -> None:
        # One wake-up of the loop carries all events that came since the last.
        self._events.append(event)
        if len(self._events) == 1:
            self._call(self._deliver)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    # -- on the event loop --------------------------------------------------------------------------------------------

    @staticmethod
    def _accept(started: asyncio.Future[EngineHost], host: EngineHost) -> None:
        if not started.done():
            started.set_result(host)

    @staticmethod
    def _refuse(started: asyncio.Future[EngineHost], error: Exception) -> None:
        if not started.done():
            started.set_exception(error)

    def _deliver(self) -> None:
        # An event leaves the queue after it was delivered, so that `_emit` knows whether somebody is still delivering.
        while self._events:
            try:
                if self._on_event is not None:
                    self._on_event(self._events[0])
            except Exception:
                log.exception("event %s could not be taken", type(self._events[0]).__name__)
            finally:
                self._events.popleft()
