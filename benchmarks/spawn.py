"""Servers in processes of their own: started, waited for until they are healthy, stopped by their id."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

# Plain HTTP; loading the certificates that a client would trust takes longer than the request.
_NO_CERTIFICATES = False
_OURS = ("TINSMITH_", "TINKER_")


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without anyone's Tinsmith or Tinker settings, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "HF_HUB_OFFLINE": "1", **(extra or {})}


class ServerProcess:
    """One server process.

    Attributes:
        url: where it listens, `http://127.0.0.1:PORT`; the port stays the same over restarts.
        log: the file that holds what it printed.
        environment: that it is started with.
    """

    def __init__(self, command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.environment = clean_environment(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self, timeout_s: float = 120.0) -> None:
        """Start the process and wait until `/healthz` answers 200.

        Raises:
            RuntimeError: it ended or is not healthy in time; the message holds the end of its log.
        """
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT, env=self.environment)
        deadline = time.monotonic() + timeout_s
        while not self._healthy():
            if self._process.poll() is not None:
                code = self._process.returncode
                self._process = None
                raise RuntimeError(f"the server ended with code {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server is not healthy after {timeout_s} s:\n{self.tail()}")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2.0, verify=_NO_CERTIFICATES).status_code == 200
        except httpx.HTTPError:
            return False

    def tail(self, characters: int = 3000) -> str:
        """Return the end of what the server printed."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ask the process to end and wait for it; nothing happens when it does not run.

        Raises:
            RuntimeError: it had to be killed.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server did not end within {timeout_s} s:\n{self.tail()}") from None
        self._process = None

    def kill(self) -> None:
        """Kill the process at once (signal 9) and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def tinsmith_command(port: int, data_dir: Path, models: Mapping[str, str], *options: str) -> list[str]:
    """Return the command line of `tinsmith serve` with these models (name to folder or hub id)."""
    command = [sys.executable, "-m", "tinsmith.cli.main", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    for name, folder in models.items():
        command += ["--model", f"{name}={folder}"]
    return [*command, *options]


def noop_command(port: int, model: str, vocab_size: int) -> list[str]:
    """Return the command line of the no-op service."""
    options = ["--port", str(port), "--model", model, "--vocab-size", str(vocab_size)]
    return [sys.executable, "-m", "benchmarks.noop_service", *options]
