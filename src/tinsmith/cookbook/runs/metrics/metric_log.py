"""The metrics of a run: one row a step, to `metrics.jsonl`, the sinks, the console and the watches."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.cookbook.runs.jsonl import JsonlWriter, keep_rows, read_rows
from tinsmith.cookbook.runs.metrics.console import RunConsole
from tinsmith.cookbook.runs.metrics.sinks import Sinks
from tinsmith.cookbook.runs.metrics.watches import Watches
from tinsmith.types.errors import invalid

logger = logging.getLogger("tinsmith.cookbook")


class MetricLog:
    """Takes the rows of a run in order.

    Args:
        writer: shared with the checkpoints, whose rows stand on these.
        path: of `metrics.jsonl`, which holds what an earlier part of the run has logged.
        first_step: the step that comes next.

    Attributes:
        next_step: the first step that has no row yet.
    """

    def __init__(self, writer: JsonlWriter, path: Path, first_step: int) -> None:
        self._writer = writer
        self._path = path
        self.next_step = first_step
        self.console = RunConsole()
        self.sinks = Sinks(self.console)
        self.watches = Watches()
        earlier = [row for row in read_rows(path) if row["step"] < first_step]
        self.console.recall(earlier)
        self.watches.recall(earlier)
        # The final evaluation of a finished run, whose step a run that was made longer does anew.
        self._is_to_cut = len(read_rows(path)) > len(earlier)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the row of a step; raises nothing but for a step that has one.

        Raises:
            UserError: the step, or one after it, has a row already.
        """
        # Two rows of a step, and nobody knows which of them the weights stand for.
        if step < self.next_step:
            raise invalid("step", step, f"at least {self.next_step}: one row for a step, in order")
        if self._is_to_cut:
            self._cut(step)
        self.next_step = step + 1
        numbers = _numbers(metrics)
        row: dict[str, Any] = {"step": step}
        # JSON has no NaN and no infinity.
        row |= {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        # The file first: it is the record, and a sink that fails must find it written.
        self._writer.append(self._path.name, row)
        self.sinks.log(step, numbers)
        self.watches.look(step, numbers)

    def close(self, *, failed: bool) -> None:
        """Write what waits, and finish."""
        self.sinks.close(failed=failed)
        self._writer.flush()

    def _cut(self, step: int) -> None:
        try:
            keep_rows(self._path, lambda row: row["step"] < step)
        except OSError as error:
            logger.warning(f"{self._path}: the row of step {step} cannot be replaced ({error.strerror}); it stays")
        self._is_to_cut = False


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name == "step":
            continue  # the row has one
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            logger.warning(f"{name}: got {value!r}, expected a number; it is left out")
            continue
        # Counts stay whole numbers in the file.
        found[name] = value if type(value) is int else number
    return found
