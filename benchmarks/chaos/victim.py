"""The service that everything happens to, and what can happen to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.spawn import ServerProcess, free_port, tinsmith_command

KEY = "tml-chaos-key"
MODEL = "tinsmith-tiny"
# How long a stopped engine stays so, and a disk full, seconds.
_STOPPED_S = 3.0
_FULL_S = 3.0
_SOURCE = Path(__file__).with_name("full_disk.c")


class Victim:
    """One `tinsmith serve` on a data folder of its own.

    Attributes:
        port: of the service; the same after a restart.
        data: its data folder.
        can_fill: whether the disk can be made to look full, which takes a C compiler.
    """

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self._full = folder / "full"
        env = {
            "TINSMITH_API_KEY": KEY,
            "TINSMITH_HOME": str(folder / "home"),
            # Often, so that kills meet recovery points and the replay behind them.
            "TINSMITH_RECOVERY_INTERVAL_S": "5",
            "OMP_NUM_THREADS": "1",
        }
        library = _compile(folder)
        self.can_fill = library is not None
        if library is not None:
            env |= {"LD_PRELOAD": str(library), "CHAOS_FULL": str(self._full), "CHAOS_FOLDER": str(self.data)}
        command = tinsmith_command(self.port, self.data, {}, "--device", "cpu", *options)
        self._process = ServerProcess(command, self.port, folder / "serve.log", env)

    def start(self) -> None:
        """Start, and wait until the model is loaded."""
        self._process.start()

    def stop(self) -> None:
        """Stop in an orderly way."""
        self._process.stop()

    @property
    def tail(self) -> str:
        """The end of its log."""
        return self._process.tail()

    def faults(self) -> dict[str, Callable[[], None]]:
        """What can happen, by name; every one leaves a service that runs or is about to."""
        found = {
            "engine killed": self._kill_engine,
            "service killed": self._kill_service,
            "both killed": self._kill_both,
            "service killed while it starts": self._kill_start,
            "engine stopped": self._stop_engine,
        }
        return found | ({"disk full": self._fill_disk} if self.can_fill else {})

    def _engines(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)

    def _kill_engine(self) -> None:
        for engine in self._engines():
            _kill(engine)

    def _kill_service(self) -> None:
        engines = self._engines()
        self._process.kill()
        # They notice that nobody listens to them any more and leave by themselves.
        psutil.wait_procs(engines, timeout=60)
        self._process.start()

    def _kill_both(self) -> None:
        engines = self._engines()
        self._process.kill()
        for engine in engines:
            _kill(engine)
        self._process.start()

    def _kill_start(self) -> None:
        """Kill a service that is coming up, where a recovery may be half done."""
        self._process.kill()
        with open(os.devnull, "wb") as nowhere:
            second = subprocess.Popen(
                self._process.command, stdout=nowhere, stderr=nowhere, env=self._process.environment
            )
            time.sleep(4.0)
            children = psutil.Process(second.pid).children(recursive=True)
            second.kill()
            second.wait()
        psutil.wait_procs(children, timeout=60)
        self._process.start()

    def _stop_engine(self) -> None:
        engines = self._engines()
        for engine in engines:
            engine.send_signal(signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        for engine in engines:
            if engine.is_running():
                engine.send_signal(signal.SIGCONT)

    def _fill_disk(self) -> None:
        self._full.touch()
        time.sleep(_FULL_S)
        self._full.unlink()


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(30)
    except psutil.NoSuchProcess:
        return  # it was quicker


def _compile(folder: Path) -> Path | None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "full_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"], check=True)
    return library
