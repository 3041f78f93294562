"""Logs: of a service as `key=value` lines, which people and machines can both read; of a start in plain words."""

from __future__ import annotations

import logging
import sys
import time
import warnings


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `time=... level=... process=... logger=... message="..."`, a traceback below if there is one.

    Args:
        process: which process of a service this is: `api` or `engine`.
    """

    # UTC, because the processes of a service may stand in different places.
    converter = time.gmtime

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        # Line breaks inside a message would begin what looks like another record.
        message = record.getMessage().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        level = record.levelname.lower()
        where = f"process={self._process} logger={record.name}"
        line = f'time={moment}.{int(record.msecs):03d}Z level={level} {where} message="{message}"'
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


# What a service inside one's own process says while it starts and loads models; silent unless somebody listens.
starting = logging.getLogger("tinsmith.starting")


class PlainLines(logging.Handler):
    """Prints records to whatever standard error is at that moment: a progress bar takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; where nobody listens any more, nothing is said."""
        try:
            print(self.format(record), file=sys.stderr)
        except OSError:
            self.handleError(record)


def tell_starts() -> None:
    """Let the starting of an embedded service be told on standard error: it takes seconds, for large models minutes."""
    if not starting.handlers:
        starting.addHandler(PlainLines())
        starting.setLevel(logging.INFO)
        starting.propagate = False  # once is enough, also where the program logs for itself


def hush_missing_widgets() -> None:
    """Say nothing of ipywidgets that a notebook lacks, which tqdm warns of as soon as a library imports it."""
    # By its message: no bar of ours needs them, and whoever wants bars of tqdm's own has them.
    warnings.filterwarnings("ignore", message="IProgress not found")


def configure(process: str) -> None:
    """Send the logs of this process, and Python's warnings, to standard error.

    Args:
        process: which process of a service this is: `api` or `engine`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter(process))
    # `force`: a library may have configured the root logger on import, and then this would do nothing.
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # uvicorn logs where it listens under the name of its errors; `tinsmith serve` says so itself.
    for noisy in ("httpx", "alembic", "filelock", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
