"""What a run says on the console: a header, a bar or lines with the time left, and tables of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tinsmith.cookbook.runs.metrics.notebook_bar import NotebookBar, in_notebook

# Without a terminal: lines of a whole run, and the longest silence in seconds.
_LINES = 20
_SILENCE_S = 60.0
# Metrics of the table that every evaluation prints.
_EVALUATED = ("test/", "eval/", "forgetting/")
# Metrics beside the bar.
_SHOWN = 2


class _Console(Console):
    """A console whose reader may leave: rich would end the program."""

    def on_broken_pipe(self) -> None:
        """Say so, for whoever leaves this console out from then on."""
        raise BrokenPipeError("nobody reads it any more")


class RunConsole:
    """Shows a run; one of its sinks.

    Args:
        console: where to; None takes standard output.
    """

    name = "console"

    def __init__(self, console: Console | None = None) -> None:
        # A notebook gets plain text: rich would make an output of its own of every line, and a kernel's standard output
        # says that it is a terminal.
        terminal = False if in_notebook() else None
        self._console = console or _Console(highlight=False, force_jupyter=False, force_terminal=terminal)
        self._progress: Progress | None = None
        self._bar: NotebookBar | None = None
        self._first = self._total = 0
        self._last_line = 0.0
        self._paced: tuple[int, float] = (0, 0.0)  # steps done and time from which the pace is measured
        self._begun: dict[str, float] = {}
        self._now: dict[str, float] = {}

    # So that the tables of a run that is taken up again begin at its first row, not at the first of today.
    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the metrics of an earlier part of the run."""
        for row in rows:
            self._take({name: value for name, value in row.items() if name != "step" and value is not None})

    def header(self, facts: Mapping[str, object]) -> None:
        """Print what the run is about to do."""
        width = max(map(len, facts))
        for name, value in facts.items():
            self.say(f"{name:<{width}}  {value}")

    def say(self, text: str) -> None:
        """Print a text as it is, however long."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, first: int, total: int) -> None:
        """Begin to count steps."""
        self._first, self._total = first, total
        self._last_line = time.monotonic()
        self._paced = (first, self._last_line)
        # In a file or a log of a cluster, a bar would be a line for each of its updates.
        if self._console.is_terminal:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[shown]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
            )
            self._progress = Progress(*columns, console=self._console)
            self._progress.add_task("", total=total, completed=first, shown="")
            self._progress.start()
        elif in_notebook():
            self._bar = NotebookBar(total)
            self._bar.update(first, "")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step."""
        # As it was at the evaluation before this one.
        before = dict(self._now)
        self._take(metrics)
        done = min(step + 1, self._total)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, shown=_headline(metrics))
            if done == self._total:
                self._end_bar()  # while there is one, whatever is printed is wrapped, paths too
        elif self._bar is not None:
            self._bar.update(done, f"{_headline(metrics)}  {self._pace(done)}")
            if done == self._total:
                self._bar = None  # the last evaluation has no step of its own
        elif step < self._total and self._is_line_due(done):
            self._last_line = time.monotonic()
            self.say(f"step {done}/{self._total}  {_headline(metrics)}  {self._pace(done)}")
        evaluation = {name: value for name, value in metrics.items() if name.startswith(_EVALUATED)}
        if evaluation:
            self._table(f"evaluation after {step} steps", evaluation, before)

    def close(self, *, failed: bool) -> None:
        """End the bar; print the metrics of a run that ended well."""
        self._end_bar()
        told = {name: value for name, value in self._now.items() if not name.startswith(("time/", "optim/"))}
        if self._total and told and not failed:
            self._table(f"metrics after {self._total} steps", told, None)

    def _end_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _take(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._begun.setdefault(name, value)
            self._now[name] = value

    def _is_line_due(self, done: int) -> bool:
        # Some twenty lines whatever the length, and one a minute for steps that take long.
        every = max(1, self._total // _LINES)
        waited = time.monotonic() - self._last_line > _SILENCE_S
        return waited or done % every == 0 or done in (self._first + 1, self._total)

    def _pace(self, done: int) -> str:
        now = time.monotonic()
        first, started = self._paced
        seconds = (now - started) / max(1, done - first)
        if first == self._first:
            self._paced = (done, now)  # the first step also loads the model
        left = round(seconds * (self._total - done))
        return f"{seconds:.2f} s/step  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def _table(self, title: str, metrics: Mapping[str, float], before: Mapping[str, float] | None) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for column in ("first", "now") if before is None else ("first", "before", "now"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, value in metrics.items():
            values = [self._begun[name], *([] if before is None else [before.get(name)]), value]
            table.add_row(Text(name), *("" if number is None else f"{number:.4g}" for number in values))
        self._console.print(table)


def _headline(metrics: Mapping[str, float]) -> str:
    # Trainers put their loss first among what they log. Where there is a reward, it says more than the loss, which then
    # has no scale of its own.
    first = [name for name in ("env/reward",) if name in metrics]
    trained = [name for name in metrics if name.startswith("train/")] or list(metrics)
    told = [*first, *trained][:_SHOWN]
    return "  ".join(f"{name.rpartition('/')[2]} {metrics[name]:.4g}" for name in told)
