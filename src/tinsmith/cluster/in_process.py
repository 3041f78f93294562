"""Engines on a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from tinsmith.cluster.backoff import Backoff
from tinsmith.cluster.loading import load_engine, load_engines
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Lost, Ready
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import StartupError, UserError
from tinsmith.types.facts.base_model_info import BaseModelInfo

logger = logging.getLogger(__name__)

# A turn is not broken off; the longest is a pass of long rows on a CPU. The thread is a daemon, so that a process whose
# turn takes longer still ends all the same.
_LONGEST_STOP_S = 30.0


class InProcessLink:
    """An `EngineLink` to a host on a daemon thread.

    Operations that are submitted while no host is up are dropped: whoever submits does so again on `Ready`.

    Args:
        models: base models to load at the start; others can follow with `ensure_model`.
        load: makes engines; called on the host's thread.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec],
        settings: Settings,
        load: Callable[[Iterable[ModelSpec], Settings], Mapping[str, HostedEngine]] = load_engines,
    ) -> None:
        self._models = list(models)
        self._settings = settings
        self._load = load
        self._host: EngineHost | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._thread: threading.Thread | None = None
        self._was_ready = False
        self._backoff = Backoff()

    async def start(self, on_event: Callable[[Event], None]) -> None:
        """Load the models and start the host; returns after `Ready` was delivered.

        Raises:
            StartupError: a model does not load.
        """
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="tinsmith-engine", daemon=True)
        self._thread.start()
        await self._first

    def submit(self, op: Operation) -> None:
        """Hand over an operation."""
        if self._host is not None:
            self._host.submit(op)

    def cancel(self, request_id: str) -> None:
        """Ask for a sample to be dropped."""
        if self._host is not None:
            self._host.cancel(request_id)

    def progressed(self) -> None:
        """Note that this life of the host has finished something new."""
        self._backoff.progressed()

    async def ensure_model(self, name: str, source: str) -> BaseModelInfo:
        """Load a further base model, unless it is there; other work waits meanwhile.

        Raises:
            UserError: the source holds no model that can be served, or the name stands for another source.
            StartupError: no host is up.
        """
        host = self._host
        if host is None:
            raise StartupError(f"model {name}: the engine is not running")
        spec = ModelSpec(name, source)
        # On the host's thread, which alone calls engines and knows its queues.
        return await asyncio.wrap_future(host.call(lambda: self._ensure(host, spec)))

    def _ensure(self, host: EngineHost, spec: ModelSpec) -> BaseModelInfo:
        known = next((model for model in self._models if model.name == spec.name), None)
        if known is not None and known != spec:
            raise UserError(f"model {spec.name}: got source {spec.source}, expected {known.source} as it was loaded")
        if known is None:
            host.add_engine(spec.name, load_engine(spec, self._settings))
            # The next life loads it too; not before it has loaded once, or a bad source would end every life.
            self._models.append(spec)
        return host.infos[spec.name]

    async def close(self) -> None:
        """Stop the host and wait until its thread has ended."""
        self._closing.set()
        if self._host is not None:
            self._host.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _LONGEST_STOP_S)

    # -- on the host's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._live()
            except Exception as error:
                # First of all, so that nothing is submitted to a host that no longer runs.
                self._host = None
                if not self._was_ready:
                    self._call(self._startup_failed, error)
                    return
                logger.exception("the engine host ended")
                self._deliver(Lost(str(error)))
                self._closing.wait(self._backoff.died())

    def _live(self) -> None:
        host = EngineHost(self._load(self._models, self._settings), self._deliver, self._settings)
        self._host = host
        # Asked after the host can be reached: a `close` before that found none to stop.
        if not self._closing.is_set():
            host.run()

    def _deliver(self, event: Event) -> None:
        """Pass an event to the event loop; what gathers before the loop comes to it goes in one call."""
        if isinstance(event, Ready):
            self._was_ready = True
            self._backoff.up()
        # Waking the loop costs more than an event, and a sampler ends many requests in one step.
        with self._lock:
            self._events.append(event)
            if len(self._events) > 1:
                return
        self._call(self._flush)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop was closed without closing the link: nobody is left to hear of it.
            self._closing.set()
            if self._host is not None:
                self._host.stop()

    # -- on the event loop --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        for event in events:
            try:
                self._on_event(event)
            except Exception:
                # A fault of the listener must not swallow the events behind this one.
                logger.exception("an event of the engine could not be handled")
            if isinstance(event, Ready) and not self._first.done():
                self._first.set_result(None)

    def _startup_failed(self, error: Exception) -> None:
        if not self._first.done():
            reason = error if isinstance(error, StartupError) else StartupError(f"{type(error).__name__}: {error}")
            self._first.set_exception(reason)
