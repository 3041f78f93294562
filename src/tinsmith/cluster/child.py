"""`ChildLink`: an engine host in a child process, watched and started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinsmith.cluster.frames import FrameError, FrameReader, encode_frames
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError
from tinsmith.types.operations import Event, Lost, Operation, Ready, event_from_frame

log = logging.getLogger("tinsmith.cluster")

_READ_BYTES = 1 << 20
_CONNECT_TIMEOUT_S = 120.0
_CLOSE_TIMEOUT_S = 15.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class ChildLink:
    """Runs `tinsmith.cluster.engine_main` as a child process and talks to it over a Unix socket.

    When the child dies, `Lost` goes to the listener, a new child is started after a pause that grows while children
    die young, and `Ready` follows. What was submitted in between is dropped: the listener submits it again on `Ready`.

    Args:
        models: base models to load, name to folder or hub id.
        settings: device, dtype and limits.
    """

    def __init__(self, models: Mapping[str, str], settings: Settings) -> None:
        self._models = dict(models)
        self._settings = settings
        self._on_event: Callable[[Event], None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._outbox: list[dict[str, Any]] = []
        self._flushing = False
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Process id of the child that runs now."""
        return self._process.pid if self._process is not None else None

    async def start(self, on_event: Callable[[Event], None]) -> None:
        """Start the child and return once its models are loaded; `Ready` has been delivered then.

        Raises:
            StartupError: a model cannot be served, or the child died before it was ready.
        """
        self._on_event = on_event
        reader, frames = await self._spawn()
        self._watcher = asyncio.create_task(self._watch(reader, frames), name="tinsmith-engine-watcher")

    def submit(self, op: Operation) -> None:
        """Hand over an operation; never blocks."""
        self._send(op.to_frame())

    def cancel(self, op_id: str) -> None:
        """Ask for a sampling operation to be dropped; advisory."""
        self._send({"cancel": op_id})

    async def close(self) -> None:
        """Stop the child after its turn, or by force when that takes too long."""
        self._closing = True
        self._send({"close": True})
        process = self._process
        if process is not None and process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), _CLOSE_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._writer is not None:
            self._writer.close()

    # -- the child ----------------------------------------------------------------------------------------------------

    async def _spawn(self) -> tuple[asyncio.StreamReader, FrameReader]:
        """Start a child, tell it what to serve, and wait for its `Ready`."""
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not connected.done():
                connected.set_result((reader, writer))

        # A folder that only this user may enter: whoever connects commands the engine.
        with tempfile.TemporaryDirectory(prefix="tinsmith-") as folder:
            path = str(Path(folder) / "engine.sock")
            server = await asyncio.start_unix_server(accept, path)
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tinsmith.cluster.engine_main", path, stdin=asyncio.subprocess.DEVNULL
            )
            died = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait({connected, died}, timeout=_CONNECT_TIMEOUT_S, return_when="FIRST_COMPLETED")
            finally:
                died.cancel()
                server.close()
        if not connected.done():
            raise StartupError(await self._end_of(process, "could not be started"))
        reader, self._writer = connected.result()
        self._outbox.clear()
        self._send({"models": self._models, "settings": self._settings.model_dump(mode="json")})
        frames = FrameReader()
        await self._until_ready(process, reader, frames)
        return reader, frames

    async def _until_ready(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, frames: FrameReader
    ) -> None:
        ready = False
        while not ready:
            data = await self._receive(reader)
            if not data:
                raise StartupError(await self._end_of(process, "died while it loaded its models"))
            for frame in frames.feed(data):
                if "startup_error" in frame:
                    await process.wait()
                    raise StartupError(str(frame["startup_error"]))
                event = event_from_frame(frame)
                ready |= isinstance(event, Ready)
                self._deliver(event)

    async def _end_of(self, process: asyncio.subprocess.Process, what: str) -> str:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        return f"the engine process {what} ({_exit(code)})"

    @staticmethod
    async def _receive(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(_READ_BYTES)
        except ConnectionError:
            return b""

    # -- supervision --------------------------------------------------------------------------------------------------

    async def _watch(self, reader: asyncio.StreamReader, frames: FrameReader) -> None:
        while True:
            reason = await self._serve(reader, frames)
            if self._closing:
                return
            log.error("%s; starting another", reason)
            self._deliver(Lost(reason))
            reader, frames = await self._respawn()

    async def _serve(self, reader: asyncio.StreamReader, frames: FrameReader) -> str:
        """Deliver events until the child is gone; return why it is."""
        process = self._process
        assert process is not None
        reason = "closed its socket"
        try:
            while data := await self._receive(reader):
                for frame in frames.feed(data):
                    self._deliver(event_from_frame(frame))
        except FrameError as error:
            reason = f"sent what is no frame: {error}"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return await self._end_of(process, reason)

    async def _respawn(self) -> tuple[asyncio.StreamReader, FrameReader]:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await self._spawn()
            except (StartupError, OSError) as error:
                log.error("the engine did not come back: %s; next try in %.1f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _deliver(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("event %s could not be taken", type(event).__name__)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self, frame: dict[str, Any]) -> None:
        """Queue a frame; all that are queued in one round of the loop leave in one write."""
        if self._writer is None:
            return
        self._outbox.append(frame)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        frames, self._outbox = self._outbox, []
        if self._writer is not None and not self._writer.is_closing() and frames:
            self._writer.write(encode_frames(frames))


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
