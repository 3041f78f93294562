"""The child process in which engines live: `python -m tinsmith.cluster.engine_main`, started by `ChildLink`.

Its main thread is the host, which sends its events itself as far as the socket takes them at once; one thread reads
operations from the socket and one writes what is left, so that the host never waits for the socket. When the parent
goes, the socket ends and so does this process.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue
from typing import Any

from tinsmith import logs
from tinsmith.cluster.frames import FrameDecoder, FrameError, encode_frame
from tinsmith.cluster.loading import load_engines
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.cluster.slate import Slate
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Failure
from tinsmith.types.engine_messages.operation_codec import event_to_frame, operation_from_frame
from tinsmith.types.errors import RequestErrorCategory, StartupError

logger = logging.getLogger(__name__)

# Not 1 and 2, which Python itself ends with after an exception and after wrong arguments.
EXIT_STARTUP = 3
EXIT_HOST = 4

_READ_BYTES = 1 << 18
# How often the parent hears that this process lives, seconds.
_BEAT_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; leave at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Asked after the signal is set, so that a death in between is not missed either way.
    if os.getppid() != parent:
        os._exit(0)


class Channel:
    """The socket to the parent.

    Events leave from the thread that emits them, together, as far as the socket takes them at once: handing each to a
    thread of its own would mean waiting for that thread to get the interpreter. What the socket does not take yet is
    written by one that may wait.

    Args:
        on_message: called on the reading thread with each message.
        turn: returns the number of the turn that is going on; called on the writing thread.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[dict[str, Any]], None], turn: Callable[[], int | None]
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._turn = turn
        self._unsent = bytearray()
        # Whether the writing thread is in the middle of a batch, which nothing may overtake.
        self._writing = False
        self._closing = False
        self._more = threading.Condition()
        threading.Thread(target=self._read, name="tinsmith-read", daemon=True).start()
        self._writer = threading.Thread(target=self._write, name="tinsmith-write", daemon=True)
        self._writer.start()

    def send(self, message: dict[str, Any]) -> None:
        """Write a message."""
        self._add(message)
        self.push()

    def send_event(self, event: Event) -> None:
        """Write an event with the next `push`."""
        self._add(event_to_frame(event))

    def _add(self, message: dict[str, Any]) -> None:
        frame = _encode(message)
        with self._more:
            self._unsent += frame

    def push(self) -> None:
        """Write what has gathered; returns at once."""
        with self._more:
            if self._unsent and not self._writing:
                del self._unsent[: self._send_now()]
            if self._unsent:
                self._more.notify()

    def _send_now(self) -> int:
        """Return how many bytes the socket took."""
        try:
            return self._sock.send(self._unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            os._exit(0)  # the parent is gone

    def close(self) -> None:
        """Write what is left."""
        with self._more:
            self._closing = True
            self._more.notify()
        self._writer.join()

    def _read(self) -> None:
        decoder = FrameDecoder()
        try:
            while data := self._sock.recv(_READ_BYTES):
                for message in decoder.feed(data):
                    self._on_message(message)
        except Exception as error:
            # Whatever it was: with this thread gone nobody would hear the service any more, so say why and leave.
            logger.exception("the connection to the service broke")
            self.send({"deaf": f"the engine process could not read a message: {error}"})
            self.close()
        # Nobody is left to work for, and files are written so that a sudden end does no harm.
        os._exit(0)

    def _write(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._sock.sendall(batch)
            except OSError:
                os._exit(0)  # the parent is gone

    def _next(self) -> bytes | bytearray | None:
        """Return what is to be written next, None where that was all."""
        with self._more:
            self._writing = False
            if not self._unsent and not self._closing:
                self._more.wait(_BEAT_EVERY_S)
            if not self._unsent and self._closing:
                return None
            self._writing = True
            batch, self._unsent = self._unsent, bytearray()
            return batch or _encode({"beat": self._turn()})


def _encode(message: dict[str, Any]) -> bytes:
    try:
        return encode_frame(message)
    except FrameError as error:
        # Only a result grows so large. Its operation gets an answer, so that nobody waits for it for ever.
        failure = Failure(message["request_id"], f"the result is too large: {error}", RequestErrorCategory.SERVER)
        return encode_frame(event_to_frame(failure))


class Child:
    """What the parent's messages do: `hello` with models and settings comes first, then `op`, `cancel`, `stop`."""

    def __init__(self, sock: socket.socket, slate: Slate) -> None:
        self._slate = slate
        # Handed to the main thread, which loads the models: the reading thread must stay free to hear a `stop`.
        self.hello: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._host: EngineHost | None = None
        self.channel = Channel(sock, self._receive, self._turn)

    def _turn(self) -> int | None:
        return None if self._host is None else self._host.turn

    def _receive(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self.hello.put(message["hello"])
        elif self._host is None:
            os._exit(0)  # `stop`: nothing else is said before the host is up
        elif "op" in message:
            self._host.submit(operation_from_frame(message["op"]))
        elif "cancel" in message:
            self._host.cancel(message["cancel"])
        else:
            self._host.stop()

    def work(self, load: Callable[[Iterable[ModelSpec], Settings], Mapping[str, HostedEngine]]) -> int:
        """Load the models and serve until told to stop; return the exit status."""
        hello = self.hello.get()
        settings = Settings(**hello["settings"])
        try:
            engines = load([ModelSpec(*model) for model in hello["models"]], settings)
        except StartupError as error:
            self.channel.send({"startup_error": str(error)})
            return EXIT_STARTUP
        # What is there by now stays: looking through it for garbage would stop every run for a fifth of a second.
        gc.freeze()
        self._host = EngineHost(
            engines, self.channel.send_event, settings, push=self.channel.push, begin=self._slate.write
        )
        try:
            self._host.run()
        except Exception as error:
            logger.exception("the engine host ended")
            self.channel.send({"broken": str(error)})
            return EXIT_HOST
        return 0


def main(load: Callable[[Iterable[ModelSpec], Settings], Mapping[str, HostedEngine]] = load_engines) -> None:
    """Run the child process and end it.

    Args:
        load: makes the engines; a test's process passes fakes.
    """
    parser = argparse.ArgumentParser(description="The engine process of a Tinsmith service; started by the service.")
    parser.add_argument("--fd", type=int, required=True, help="socket to the service, inherited")
    parser.add_argument("--slate", type=int, required=True, help="memory for what is being worked on, inherited")
    parser.add_argument("--parent", type=int, required=True, help="process id of the service")
    args = parser.parse_args()
    die_with_parent(args.parent)
    # An interrupt at the terminal reaches the whole group; the service decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("engine")
    child = Child(socket.socket(fileno=args.fd), Slate(args.slate))
    status = child.work(load)
    child.channel.close()
    # Without waiting for daemon threads: one of them may be in the middle of a long read.
    os._exit(status)


if __name__ == "__main__":
    main()
