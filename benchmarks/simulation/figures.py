"""What a simulation comes to: of the engine as a whole, and of each kind of tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from benchmarks.common import Column
from benchmarks.simulation.ledger import Account, Ledger

_PERCENTILES = (50, 95, 99)


def jain(shares: Collection[float]) -> float:
    """Return Jain's index of fairness of n shares, (sum x)² / (n · sum x²).

    It is 1 where all are equal, and k / n where k of them share everything (Jain, Chiu & Hawe 1984, "A Quantitative
    Measure of Fairness and Discrimination", DEC-TR-301, section 2). Of nothing it is 1: nobody has more than another.
    """
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def window_indices(windows: Iterable[dict[str, float]]) -> list[float]:
    """Return Jain's index of each window in which the work of two or more owners waited all the time."""
    return [jain(window.values()) for window in windows if len(window) > 1]


def engine_column(name: str, ledger: Ledger) -> Column:
    """Return what the engine did, how fair it was and how long the worst waited."""
    column = Column(name)
    seconds = ledger.seconds
    column.add("engine works", 100 * ledger.busy_s / seconds, "%")
    column.add("idle beside waiting work", ledger.idle_beside_work_s, "s", higher_is_better=False)
    column.add("training", ledger.pass_tokens / seconds, "tokens/s")
    column.add("sampling", ledger.tokens_drawn / seconds, "tokens/s")
    column.add("tokens of a pass", ledger.pass_tokens / max(1, ledger.passes), "tokens")
    column.add("sequences decoded at once", ledger.decode_rows / max(1, ledger.decodes), "")
    column.add("computed again after giving way", 100 * ledger.again_s / seconds, "% of time", higher_is_better=False)
    indices = window_indices(ledger.windows)
    if indices:
        column.add("Jain's index, median window", float(np.median(indices)), "")
        column.add("Jain's index, worst window", min(indices), "")
        column.add("owners in it, mean", float(np.mean([len(w) for w in ledger.windows])), "")
    accounts = list(ledger.accounts.values())
    _percentiles(column, "newcomer's wait", [w for a in accounts for w in a.newcomer_waits])
    worst = max(a.longest for a in accounts)
    column.add("longest without service", worst, "s", higher_is_better=False)
    return column


def kind_columns(ledger: Ledger, alone: dict[str, float]) -> list[Column]:
    """Return a column for each kind of tenant; `alone` has the mean time of its requests on an engine of its own."""
    kinds: dict[str, list[Account]] = {}
    for account in ledger.accounts.values():
        kinds.setdefault(account.kind, []).append(account)
    return [_kind_column(kind, accounts, ledger, alone) for kind, accounts in kinds.items()]


def _kind_column(kind: str, accounts: list[Account], ledger: Ledger, alone: dict[str, float]) -> Column:
    column = Column(kind)
    column.add("tenants", len(accounts), "")
    column.add("share of the engine", 100 * sum(a.service for a in accounts) / ledger.seconds, "%")
    waits = [wait for a in accounts for wait in a.waits]
    whole = [took for a in accounts for took in a.whole]
    column.add("requests begun", len(waits), "")
    _percentiles(column, "wait", waits)
    _percentiles(column, "step or sample", whole)
    if whole and alone.get(kind):
        column.add("slowdown", float(np.mean(whole)) / alone[kind], "", higher_is_better=False)
    column.add("longest without service", max(a.longest for a in accounts), "s", higher_is_better=False)
    return column


def mean_whole(ledger: Ledger) -> float | None:
    """Return the mean time of all steps and samples, seconds; None where none was answered."""
    whole = [took for account in ledger.accounts.values() for took in account.whole]
    return float(np.mean(whole)) if whole else None


def _percentiles(column: Column, name: str, values: list[float]) -> None:
    if not values:
        return
    for percentile in _PERCENTILES:
        value = float(np.percentile(values, percentile))
        column.add(f"{name}, p{percentile}", value, "s", higher_is_better=False)
    column.add(f"{name}, largest", max(values), "s", higher_is_better=False)
