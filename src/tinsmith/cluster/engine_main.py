"""The engine process: `python -m tinsmith.cluster.engine_main SOCKET`, started by `ChildLink`.

The first frame names the models and settings; then operations come in and events go out. The process ends when its
socket does: without the API process nobody wants its work.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from tinsmith.cluster.frames import FrameReader, encode_frames
from tinsmith.cluster.loading import load_engines
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError
from tinsmith.types.operations import Event, Operation, event_to_frame

log = logging.getLogger("tinsmith.cluster")

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 1 << 20


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, in case it hangs in a long pass then."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Writer:
    """Sends frames from a thread of its own, as many as wait at a time, so that the engine never waits for a reader."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="tinsmith-writer", daemon=True).start()

    def event(self, event: Event) -> None:
        """Send an event."""
        self._queue.put(event_to_frame(event))

    def _run(self) -> None:
        while True:
            frames = [self._queue.get()]
            while not self._queue.empty():
                frames.append(self._queue.get())
            self._connection.sendall(encode_frames(frames))


def _read(connection: socket.socket, host: EngineHost, reader: FrameReader) -> None:
    code = 1
    try:
        while data := connection.recv(_READ_BYTES):
            for frame in reader.feed(data):
                if "cancel" in frame:
                    host.cancel(frame["cancel"])
                elif "close" in frame:
                    host.stop()
                else:
                    host.submit(Operation.from_frame(frame))
        code = 0  # the API process is gone, and so is whoever asked for what runs now
    except Exception:
        log.exception("the socket cannot be read any further")
    os._exit(code)


def _first_frame(connection: socket.socket, reader: FrameReader) -> dict[str, Any]:
    while data := connection.recv(_READ_BYTES):
        for frame in reader.feed(data):
            return frame
    raise SystemExit("the API process closed the socket before it said what to serve")


def main(path: str) -> None:
    """Connect to the socket at `path` and serve until told to stop."""
    die_with_parent()
    # A Ctrl-C in the terminal reaches the whole process group; the API process decides when the engine stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s engine: %(message)s", stream=sys.stderr)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    reader = FrameReader()
    first = _first_frame(connection, reader)
    settings = Settings.model_validate(first["settings"])
    try:
        engines = load_engines(first["models"], settings)
    except StartupError as error:
        connection.sendall(encode_frames([{"startup_error": str(error)}]))
        raise SystemExit(1) from error
    writer = Writer(connection)
    host = EngineHost(engines, writer.event, settings)
    threading.Thread(target=_read, args=(connection, host, reader), name="tinsmith-reader", daemon=True).start()
    host.run()


if __name__ == "__main__":
    main(sys.argv[1])
