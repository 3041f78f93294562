"""What is measured: times by kind of request and phase, and faults."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.common import Column

# In this order in the table.
KINDS = ("heartbeat", "settled poll", "submit", "whole step", "whole sample")
_PERCENTILES = (50, 95, 99)


@dataclass
class Figures:
    """Times of one phase of the load, seconds.

    Attributes:
        times: by kind.
        done: operations that were carried out, by kind.
        faults: answers that no client expects, by what they said.
        back_pressure: submissions that were told to come back (429, 503).
        lags: how late the client's own event loop was; it is part of every time here.
    """

    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    back_pressure: int = 0
    lags: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time the body of the `with`; one that raises does not count."""
        started = time.perf_counter()
        yield
        self.times[kind].append(time.perf_counter() - started)

    def fault(self, what: str) -> None:
        """Note a fault."""
        self.faults[what[:200]] += 1

    def column(self, name: str, seconds: float) -> Column:
        """Return the figures as a column of a table."""
        column = Column(name)
        for kind in KINDS:
            times = self.times[kind]
            if not times:
                continue
            column.add(f"{kind}, number", len(times), "")
            for percentile in _PERCENTILES:
                value = float(np.percentile(times, percentile)) * 1e3
                column.add(f"{kind}, p{percentile}", value, "ms", higher_is_better=False)
            column.add(f"{kind}, max", max(times) * 1e3, "ms", higher_is_better=False)
        if self.lags:
            column.add("client's loop late, p99", float(np.percentile(self.lags, 99)) * 1e3, "ms")
        for kind, count in self.done.items():
            column.add(kind, count / seconds, "1/s")
        column.add("told to come back", self.back_pressure, "", higher_is_better=False)
        column.add("errors", sum(self.faults.values()), "", higher_is_better=False)
        return column
