"""Recipes as processes that are killed, and what their runs leave behind, for comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import tinsmith
from tinsmith.types.names.paths import CheckpointPath

PROMPTS = ["translate: hello", "translate: oak", "once upon"]
_TIMEOUT_S = 400.0
_DRAWN = 8


@dataclass
class RecipeRun:
    """A recipe with its settings, as a process.

    Attributes:
        recipe: name of the module under `tinsmith.cookbook.recipes`, or the whole name of one of `tests`.
        log_path: the run's folder.
        home: data folder of the embedded service.
        settings: `name=value`.
        environment: further variables.
    """

    recipe: str
    log_path: Path
    home: Path
    settings: tuple[str, ...]
    environment: dict[str, str]

    def start(self) -> subprocess.Popen[str]:
        """Start the process."""
        own = self.recipe.startswith("tests.")
        module = self.recipe if own else f"tinsmith.cookbook.recipes.{self.recipe}"
        return subprocess.Popen(
            [sys.executable, "-m", module, f"log_path={self.log_path}", *self.settings],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TINSMITH_HOME": str(self.home), **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """Run to the end and return what was printed."""
        process = self.start()
        told, _ = process.communicate(timeout=_TIMEOUT_S)
        assert process.returncode == 0, told
        return told

    def kill_after(self, rows: int, random: Random) -> bool:
        """Run until so many rows are logged and a moment longer, and kill it; return whether it was still running."""
        process = self.start()
        deadline = time.monotonic() + _TIMEOUT_S
        while len(self.lines()) < rows and process.poll() is None:
            assert time.monotonic() < deadline, f"{rows} rows were not logged in {_TIMEOUT_S} s"
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.2))
        process.kill()
        told, _ = process.communicate()
        assert process.returncode in (0, -9), told
        return process.returncode == -9

    def lines(self) -> list[str]:
        """Return the whole lines of `metrics.jsonl`."""
        path = self.log_path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of the metrics without the wall clock."""
        rows = [json.loads(line) for line in self.lines()]
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the rows of the checkpoints."""
        return [json.loads(line) for line in (self.log_path / "checkpoints.jsonl").read_text().splitlines()]

    def final(self) -> dict[str, Any]:
        """Return the row of the final checkpoint."""
        return [row for row in self.checkpoints() if row.get("kind") == "final"][-1]


def saved_adapter(path: str, data_dir: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a checkpoint, from the data folder of the service that has it."""
    from safetensors.numpy import load_file

    parsed = CheckpointPath.parse(path)
    return load_file(data_dir / "checkpoints" / parsed.run_id / parsed.kind / parsed.name / "adapter_model.safetensors")


def drawn(paths: list[str], home: Path, environment: dict[str, str]) -> list[list[list[int]]]:
    """Return the tokens that each of several saved weights answers `PROMPTS` with, greedy and at temperature 1.

    A process of its own asks: the embedded service of this one has another data folder.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.recipe_runs", *paths],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TINSMITH_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _draw(path: str) -> list[list[int]]:
    with tinsmith.ServiceClient() as service:
        sampler = service.create_sampling_client(model_path=path)
        tokenizer = sampler.get_tokenizer()
        futures = [
            sampler.sample(
                tokenizer.encode(prompt),
                num_samples=1,
                sampling_params=tinsmith.SamplingParams(max_tokens=_DRAWN, temperature=temperature, seed=7),
            )
            for prompt in PROMPTS
            for temperature in (0.0, 1.0)
        ]
        return [list(future.result().sequences[0].tokens) for future in futures]


def assert_same_adapter(given: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    """Assert that two adapters are equal to 1e-6."""
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(given[name], value, rtol=0, atol=1e-6, err_msg=name)


if __name__ == "__main__":
    print(json.dumps([_draw(path) for path in sys.argv[1:]]))
