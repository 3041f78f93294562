"""One program behind one wall: started, fed, read and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator
from typing import IO, cast

from tinsmith.cookbook.code_execution.limits import Limits
from tinsmith.cookbook.code_execution.sandbox import Executed, Reason, SandboxError, reason_of
from tinsmith.cookbook.code_execution.walls import Wall

logger = logging.getLogger(__name__)
# The whole environment: no keys, no proxies, no paths of packages. The order of sets is the same in every run, so that
# a program gets the same verdict again.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}
# The launcher keeps time. This is for a launcher that a program without walls has stopped.
GRACE = 3.0


async def run_behind(wall: Wall, program: str, stdin: str, limits: Limits) -> Executed:
    """Run a program to its end.

    Raises:
        SandboxError: it could not be started.
    """
    folder = tempfile.mkdtemp(prefix="tinsmith-code-")
    try:
        async with _output() as (stdout, to_stdout), _output() as (stderr, to_stderr):
            ours, theirs = socket.socketpair()
            # Files, not pipes: neither has to be fed while output is read.
            with ours, theirs, to_stdout, to_stderr, _file(program) as source, _file(stdin) as given:
                process = await asyncio.create_subprocess_exec(
                    *wall.command(theirs.fileno(), source.fileno(), limits, folder),
                    stdin=given,
                    stdout=to_stdout,
                    stderr=to_stderr,
                    pass_fds=(theirs.fileno(), source.fileno()),
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                )
                # Held open here, these would never be read to their end.
                for held in (theirs, to_stdout, to_stderr):
                    held.close()
                ours.setblocking(False)
                return await _Running(process, ours, limits).result(stdout, stderr)
    finally:
        _remove(folder)


class _Running:
    """A started launcher, until it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, limits: Limits) -> None:
        self._process = process
        self._control = control
        self._limits = limits
        self._flooded = False

    async def result(self, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> Executed:
        """Wait for the end. When this is cancelled, the program is ended."""
        kept = bytearray(), bytearray()
        reading = [asyncio.create_task(self._read(*pair)) for pair in zip((stdout, stderr), kept, strict=True)]
        try:
            async with asyncio.timeout(self._limits.seconds + GRACE):
                told = (await asyncio.get_running_loop().sock_recv(self._control, 4096)).decode()
            # What was printed is all there, unless something that got away holds the streams open.
            await asyncio.wait(reading, timeout=0.5)
        except TimeoutError:
            told = f"time {self._limits.seconds + GRACE}"
        finally:
            for task in reading:
                task.cancel()
            await self._end()
        printed, complained = (bytes(part).decode(errors="replace") for part in kept)
        reason, seconds = self._reason(told, complained)
        return Executed(printed, complained, reason, seconds)

    async def _read(self, stream: asyncio.StreamReader, kept: bytearray) -> None:
        while chunk := await stream.read(1 << 16):
            room = self._limits.output - len(kept)
            kept += chunk[:room]
            if len(chunk) > room and not self._flooded:
                self._flooded = True
                self._control.shutdown(socket.SHUT_WR)  # asks the launcher to end it

    async def _end(self) -> None:
        # When the launcher reads this end as closed, it ends what it started, and then itself.
        self._control.close()
        try:
            async with asyncio.timeout(GRACE):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _reason(self, told: str, stderr: str) -> tuple[Reason, float]:
        word, _, rest = told.partition(" ")
        if word == "failed":
            raise SandboxError(f"a program could not be started: {rest}")
        if not word and (self._process.returncode or 0) >= 0:
            raise SandboxError(f"a program could not be started: {stderr.strip()[-500:]}")
        if not word:
            # The launcher was killed: by the program, with no wall between the two, or by the machine, short of memory.
            return "signal", 0.0
        seconds = float(rest.rpartition(" ")[2])
        if self._flooded:
            return "output", seconds
        if word == "ended":
            return reason_of(os.waitstatus_to_exitcode(int(rest.partition(" ")[0])), stderr), seconds
        return cast(Reason, word), seconds


@contextlib.asynccontextmanager
async def _output() -> AsyncIterator[tuple[asyncio.StreamReader, IO[bytes]]]:
    """Make a pipe whose end for reading is on the loop."""
    # Not the pipes of asyncio's own: some versions wait for their end before they believe that a process has ended.
    reading, writing = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, reading)
    try:
        yield reader, writing
    finally:
        writing.close()
        transport.close()


def _file(text: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(text.encode(errors="surrogatepass"))
    file.seek(0)
    return file


def _remove(folder: str) -> None:
    for path, inner, _ in os.walk(folder):
        for name in (os.path.join(path, each) for each in inner):
            # A program may have shut its folders, which is no reason to keep them.
            if not os.path.islink(name):
                os.chmod(name, stat.S_IRWXU)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("a program's folder stays behind: %s", error)
