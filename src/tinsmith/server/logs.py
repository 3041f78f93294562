"""Logs as `key=value` lines, which people and machines can both read."""

from __future__ import annotations

import logging
import sys
import time


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `time=... level=... logger=... message="..."`, with a traceback below where there is one."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        message = record.getMessage().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        level = record.levelname.lower()
        line = f'time={moment}.{int(record.msecs):03d}Z level={level} logger={record.name} message="{message}"'
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "alembic", "filelock", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
