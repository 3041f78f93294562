"""Recipes of the official cookbook as processes in its own environment (`make setup`), and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.spawn import clean_environment
from tests.support.live_server import LiveServer

PYTHON = Path(sys.prefix) / "cookbook" / "bin" / "python"
# Nobody listens there: what would ask the internet is told at once that there is none.
_NO_NETWORK = "http://127.0.0.1:9"


class Recipe:
    """One recipe, run as often as wanted with the same command in the same folder.

    Args:
        server: the service it talks to.
        folder: where it runs; made by the caller.
        arguments: of the Python of the official cookbook.
    """

    def __init__(self, server: LiveServer, folder: Path, *arguments: str) -> None:
        self._command = [str(PYTHON), *arguments]
        self._folder = folder
        self._env = clean_environment(
            {
                "TINKER_API_KEY": server.key,
                # Not every recipe has an argument for these.
                "TINKER_BASE_URL": server.url,
                "TINKER_COOKBOOK_RUNS_DIR": str(folder / "runs"),
                "HF_HOME": str(folder / "hf"),
                "HTTPS_PROXY": _NO_NETWORK,
                "OMP_NUM_THREADS": "1",
            }
        )
        self._output = folder / "output.log"

    def run(self, said: str = "", timeout_s: float = 200.0) -> None:
        """Run it to the end.

        Args:
            said: what it can read from its standard input.
            timeout_s: how long it may take, seconds.

        Raises:
            AssertionError: it failed; the message holds the end of what it printed.
        """
        process = self._start()
        try:
            process.communicate(said.encode(), timeout_s)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, f"the recipe ended with status {process.returncode}:\n{self.said[-3000:]}"

    def run_until_it_fails(self, timeout_s: float = 200.0) -> str:
        """Run a recipe that cannot go on; return what it printed."""
        process = self._start()
        try:
            process.communicate(b"", timeout_s)
        finally:
            process.kill()
            process.wait()
        assert process.returncode != 0, f"the recipe came to its end:\n{self.said[-3000:]}"
        return self.said

    @property
    def said(self) -> str:
        """What it has printed so far, in all runs."""
        return self._output.read_text()

    def run_until(self, reached: Callable[[], bool], timeout_s: float = 200.0) -> None:
        """Run it until a condition holds, then kill it with signal 9."""
        process = self._start()
        deadline = time.monotonic() + timeout_s
        try:
            while not reached():
                assert process.poll() is None, f"the recipe ended too early:\n{self.said[-3000:]}"
                assert time.monotonic() < deadline, f"nothing after {timeout_s} s:\n{self.said[-3000:]}"
                time.sleep(0.02)
        finally:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        assert PYTHON.exists(), f"{PYTHON} is missing: run `make setup`"
        with self._output.open("ab") as out:
            return subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file; none where there is no such file, and a last line that is still being written is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a JSONL file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
