"""A TCP proxy that loses answers: a request reaches the service, and its connection dies before its answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading

_READ_BYTES = 1 << 16


class LossyProxy:
    """Forwards connections to a port on this machine, on a thread of its own.

    Args:
        target: the service's port.
        seed: of what is lost.
        loss: share of the pieces of an answer whose connection is cut instead of delivering them.

    Attributes:
        port: where clients connect.
        lost: connections that were cut so.
        refused: connections that found no service.
    """

    def __init__(self, target: int, seed: int, loss: float) -> None:
        self._target = target
        self._rng = random.Random(seed)
        self.loss = loss
        self.port = 0
        self.lost = 0
        self.refused = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start; `port` is known when this returns."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Cut all connections and end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ours, theirs = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self.refused += 1
            writer.close()
            return
        tasks = [
            asyncio.create_task(self._pump(reader, theirs, answers=False)),
            asyncio.create_task(self._pump(ours, writer, answers=True)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for stream in (writer, theirs):
            stream.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        # Either side may vanish at any moment; then both are closed, which is all that a proxy can say.
        with contextlib.suppress(OSError):
            while data := await source.read(_READ_BYTES):
                if answers and self._rng.random() < self.loss:
                    self.lost += 1
                    return
                sink.write(data)
                await sink.drain()
