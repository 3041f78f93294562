"""What every test shares: one torch thread per worker, and the acceptance table of the rows that tests show."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TINKER_TELEMETRY", "0")

import pytest

from tests.acceptance.table import merged, page, read_rows, verdict
from tests.support import examples
from tests.support.live_server import live_server  # noqa: F401  (a fixture that several areas share)
from tinsmith.logs import KeyValueFormatter

examples.register()

_OURS = ("TINSMITH_", "TINKER_API_KEY", "TINKER_BASE_URL")
_results: dict[int, dict[str, str]] = defaultdict(dict)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rows", metavar="FILE", help="keep the acceptance table in FILE (JSON): this run's tests are new in it"
    )
    parser.addoption("--rows-page", metavar="FILE", help="write the table of --rows as Markdown")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the settings of whoever runs it, and none writes into their home."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A `serve` that a test ran in this process leaves no handler behind: its stream is closed with the test."""
    yield
    for handler in list(logging.root.handlers):
        if isinstance(handler.formatter, KeyValueFormatter):
            logging.root.removeHandler(handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules that share the live server come first, beside each other: one worker starts it then, and not both."""
    served = {item.path for item in items if "live_server" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in served)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # pyright: ignore[reportAttributeAccessIssue]
    if report.when == "call" or report.outcome != "passed":
        rows = [n for mark in item.iter_markers("row") for n in mark.args]
        report.user_properties.append(("rows", rows))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, rows in report.user_properties:
        if name == "rows" and isinstance(rows, list):
            for row in rows:
                _results[int(row)][report.nodeid] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    target = config.getoption("--rows")
    if not target:
        return
    path = Path(str(target))
    # All of it takes hours, so it may be run in pieces.
    earlier = json.loads(path.read_text()) if path.exists() else {}
    table = merged({int(row): tests for row, tests in earlier.items()}, _results)
    path.write_text(json.dumps(table, indent=1) + "\n")
    if written := config.getoption("--rows-page"):
        Path(str(written)).write_text(page(read_rows(), table))
    terminalreporter.section("acceptance rows")
    for row, tests in table.items():
        terminalreporter.write_line(
            f"{row:>4}  {verdict(tests.values()):<8} {len(tests)} test{'s' * (len(tests) != 1)}"
        )
