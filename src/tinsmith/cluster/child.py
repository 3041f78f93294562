"""Engines in a child process that is watched and started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Any

from tinsmith.clocks import LOOK_EVERY_S
from tinsmith.cluster.backoff import Backoff
from tinsmith.cluster.child_environment import engine_environment
from tinsmith.cluster.deaths import MemoryKills, cause_of, how_it_ended, is_stopped
from tinsmith.cluster.frames import FrameDecoder, FrameError, encode_frame
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.cluster.slate import Slate, make_memory
from tinsmith.cluster.vital_signs import VitalSigns
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Failure, LossCause, Lost, Ready
from tinsmith.types.engine_messages.operation_codec import event_from_frame, operation_to_frame
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import RequestErrorCategory, StartupError

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
# How long a child may take to finish what it is doing when told to stop, and to end when it should, seconds.
_STOP_S = 10.0
_END_S = 3.0
_STOP = {"stop": True}
# The child needs none of these.
_PRIVATE = {"api_key", "base_url", "database_url", "blob_url"}


class ChildLink:
    """An `EngineLink` to a host in a child process, over a pair of Unix sockets that no one else can reach.

    Operations that are submitted while no host is up are dropped: whoever submits does so again on `Ready`.

    Args:
        models: base models that every child loads.
        settings: the child gets them but for secrets.
        module: what the child runs; it must speak as `engine_main` does.
    """

    def __init__(
        self, models: Sequence[ModelSpec], settings: Settings, module: str = "tinsmith.cluster.engine_main"
    ) -> None:
        self._models = list(models)
        self._settings = settings
        self._module = module
        self._outbox: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = False
        self._message: str | None = None
        self._cause: LossCause | None = None
        self._garbled = False
        self._memory_kills = MemoryKills()
        self._backoff = Backoff()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self, on_event: Callable[[Event], None]) -> None:
        """Start the child; returns after `Ready` was delivered.

        Raises:
            StartupError: a model does not load, or the child died while loading.
        """
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._closing = asyncio.Event()
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._supervisor = asyncio.create_task(self._supervise())
        await self._first

    def submit(self, op: Operation) -> None:
        """Hand over an operation."""
        try:
            self._send({"op": operation_to_frame(op)})
        except FrameError as error:
            # Later, as a host would answer: whoever submits has not noted yet that it has.
            failure = Failure(op.request_id, f"the request is too large: {error}", RequestErrorCategory.USER)
            self._loop.call_soon(self._emit, failure)

    def cancel(self, request_id: str) -> None:
        """Ask for a sample to be dropped."""
        self._send({"cancel": request_id})

    def progressed(self) -> None:
        """Note that this life of the host has finished something new."""
        self._backoff.progressed()

    async def close(self) -> None:
        """Stop the child and wait until it is gone."""
        if self._supervisor is None:
            return
        # Set first: a child that is only being started gets its stop from `_live`, which asks for this.
        self._closing.set()
        if self._writer is not None:
            self._writer.write(encode_frame(_STOP))
        await asyncio.wait([self._supervisor], timeout=_STOP_S)
        await self._end_process(patience=0.0)
        await self._supervisor

    # -- out ----------------------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message; those of one round of the event loop leave in one write."""
        # Before `Ready` nothing is sent: the service submits all that it waits for once it hears of a host.
        if not self._ready:
            return
        self._outbox.append(encode_frame(message))
        if len(self._outbox) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        # Emptied even where the child is gone: the next one must not get the rest of another life.
        batch, self._outbox = b"".join(self._outbox), []
        if self._writer is not None and self._ready:
            self._writer.write(batch)

    # -- lives --------------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while not self._closing.is_set():
            try:
                lost = await self._live()
            except OSError as error:
                lost = Lost(f"the engine process could not be started: {error}")
            # A first life that never came up is the operator's to mend: a wrong path does not get better by waiting.
            if not self._first.done():
                self._first.set_exception(StartupError(lost.reason))
                return
            if self._closing.is_set():
                return
            self._emit(lost)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._backoff.died(lost.from_outside))

    async def _live(self) -> Lost:
        """Run one child until it is gone; return why it went."""
        self._message, self._cause, self._garbled = None, None, False
        ours, theirs = socket.socketpair()
        memory = make_memory()
        slate = Slate(memory)
        try:
            self._process = process = await self._spawn(theirs, memory)
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except OSError:
            ours.close()
            raise
        finally:
            # The child has its own copies. With ours open we would never see the end of the stream when it dies.
            theirs.close()
            os.close(memory)
        self._signs = VitalSigns(self._settings.engine_beat_s, self._settings.engine_stall_s)
        watch = asyncio.create_task(self._watch(process))
        try:
            settings = self._settings.model_dump(mode="json", exclude=_PRIVATE)
            models = [[model.name, model.source] for model in self._models]
            self._writer.write(encode_frame({"hello": {"models": models, "settings": settings}}))
            if self._closing.is_set():
                self._writer.write(encode_frame(_STOP))
            await self._listen(reader)
        except (FrameError, KeyError, TypeError, ValueError) as error:
            self._garbled, self._message = True, f"the engine process did not speak as expected: {error}"
        except OSError:
            logger.warning("the connection to the engine process broke", exc_info=True)
        finally:
            watch.cancel()
            self._ready = False
            # The child sees the end of its stream and leaves, unless it hangs; `_end_process` sees to that.
            self._writer.close()
            self._writer = None
            await self._end_process(patience=_END_S)
        running = slate.read()
        slate.close()
        return self._loss(process.returncode, running)

    def _loss(self, status: int | None, running: tuple[str, ...]) -> Lost:
        cause = self._cause or cause_of(status, self._memory_kills.happened())
        # Where one end did not understand the other, it was of something that had been sent, not of what was running.
        return Lost(self._message or how_it_ended(status, cause), cause, () if self._garbled else running)

    async def _spawn(self, theirs: socket.socket, memory: int) -> Process:
        places = ("--fd", str(theirs.fileno()), "--slate", str(memory), "--parent", str(os.getpid()))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self._module, *places),
            pass_fds=[theirs.fileno(), memory],  # no path in the file system, so nobody else can connect
            stdin=asyncio.subprocess.DEVNULL,
            env=engine_environment(os.environ),
        )

    async def _watch(self, process: Process) -> None:
        """Kill a child that does nothing any more; what follows is what follows any death."""
        every_s = min(LOOK_EVERY_S, self._settings.engine_beat_s / 4, self._settings.engine_stall_s / 4)
        # Looked at all the time, as a listening clock has to be.
        while (verdict := self._signs.verdict()) is None:
            self._memory_kills.look()
            await asyncio.sleep(every_s)
        self._cause, self._message = verdict
        if self._cause == "stopped" and not is_stopped(process.pid):
            self._cause = "stalled"  # a call that holds Python's lock keeps the thread that beats from it, too
        # At once and so: a stopped process would keep a SIGTERM until it is continued.
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = FrameDecoder()
        while data := await reader.read(_READ_BYTES):
            self._signs.heard()
            for message in decoder.feed(data):
                self._receive(message)

    def _receive(self, message: dict[str, Any]) -> None:
        if "beat" in message:
            self._signs.beat(message["beat"])
            return
        if "event" not in message:
            self._garbled = "deaf" in message
            self._message = message.get("startup_error") or message.get("broken") or message.get("deaf")
            return
        event = event_from_frame(message)
        if isinstance(event, Ready):
            self._ready = True
            self._backoff.up()
        self._emit(event)
        if isinstance(event, Ready) and not self._first.done():
            self._first.set_result(None)

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            # A fault of the listener must not end the watch over the child.
            logger.exception("an event of the engine process could not be handled")

    async def _end_process(self, patience: float) -> None:
        """Wait for a child that is to end, and make it end where it takes longer than `patience` seconds."""
        process = self._process
        if process is None:
            return
        for sign, wait_s in ((None, patience), (signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
            if sign is not None:
                # Its status will say that it was killed, which is not why it went.
                self._cause = self._cause or "crashed"
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), wait_s)
                break
        self._process = None
