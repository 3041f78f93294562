"""The folder of a run: its config, metrics and checkpoints, so that the same command carries on where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinsmith.types.errors import invalid


class SavedState(NamedTuple):
    """A training state that a run can carry on from: `step` steps are done, the state lies at `path`."""

    step: int
    path: str


class RunLog:
    """Owns a log path: `config.json`, `metrics.jsonl`, `checkpoints.jsonl`.

    Metrics of steps after the last saved state are dropped when a run is taken up again: those steps are done anew.

    Args:
        path: folder of the run, made when absent; None makes `runs/NAME-DATE-TIME`.
        name: of the recipe.
        config: the run's settings, JSON values.
        free: names of settings that may differ when a run is taken up again.

    Raises:
        UserError: the folder holds a run with other settings that has saved a state.
    """

    def __init__(
        self, path: str | Path | None, name: str, config: Mapping[str, Any], free: Collection[str] = ()
    ) -> None:
        self.path = Path(path) if path else Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S")
        self.path.mkdir(parents=True, exist_ok=True)
        self.last_state = self._find_last_state()
        self._check_config(json.loads(json.dumps(config)), frozenset(free))
        self._drop_metrics_from(self.last_state.step if self.last_state else 0)

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of a step to `metrics.jsonl`."""
        self._append("metrics.jsonl", {"step": step, **metrics})

    def log_state(self, step: int, path: str) -> None:
        """Note that a state with `step` steps done is saved at `path`."""
        self._append("checkpoints.jsonl", {"step": step, "state_path": path})

    def log_sampler(self, step: int, path: str) -> None:
        """Note that weights for sampling are saved at `path`."""
        self._append("checkpoints.jsonl", {"step": step, "sampler_path": path})

    def is_finished(self, steps: int) -> bool:
        """Whether the run has done its `steps` steps and saved weights for sampling.

        Raises:
            UserError: it has done more than that.
        """
        done = self.last_state.step if self.last_state else 0
        if done > steps:
            raise invalid("steps", steps, f"at least {done}, which the run in {self.path} has done")
        return any(row["step"] == steps and "sampler_path" in row for row in self.read("checkpoints.jsonl"))

    def read(self, file: str) -> list[dict[str, Any]]:
        """Return the rows of a JSONL file of the run; a last line that was cut off by a crash is left out."""
        path = self.path / file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _check_config(self, config: dict[str, Any], free: frozenset[str]) -> None:
        path = self.path / "config.json"
        # Without a saved state nothing is carried on, so whoever mistyped a setting may correct it.
        if path.exists() and self.last_state is not None:
            before = json.loads(path.read_text(encoding="utf-8"))
            for key in sorted((before.keys() | config.keys()) - free):
                if before.get(key) != config.get(key):
                    raise invalid(
                        key,
                        config.get(key),
                        f"{before.get(key)!r}, as the run in {self.path} has it, or another log_path",
                    )
        _write(path, json.dumps(config, indent=2) + "\n")

    def _find_last_state(self) -> SavedState | None:
        states = [row for row in self.read("checkpoints.jsonl") if "state_path" in row]
        return SavedState(states[-1]["step"], states[-1]["state_path"]) if states else None

    def _drop_metrics_from(self, step: int) -> None:
        rows = [row for row in self.read("metrics.jsonl") if row["step"] < step]
        _write(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        checkpoints = self.read("checkpoints.jsonl")
        _write(self.path / "checkpoints.jsonl", "".join(json.dumps(row) + "\n" for row in checkpoints))

    def _append(self, file: str, row: dict[str, Any]) -> None:
        with (self.path / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def _write(path: Path, text: str) -> None:
    """Replace a file in one move, so that a crash leaves the old one or the new one."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
