"""A warning that clients can provoke is logged at most once a minute."""

from __future__ import annotations

import logging
import time

_PERIOD_S = 60.0


class Seldom(logging.Filter):
    """Lets a warning through once a minute, with how many of it were left out; for `Logger.addFilter`.

    `asyncio` says for each connection that it has no descriptor for, uvicorn for each malformed request, that it came.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # By its first line: asyncio's goes on with the socket, which names the address.
        name = str(record.msg).partition("\n")[0]
        if record.levelno != logging.WARNING and "accept() out of system resource" not in name:
            return True
        now = time.monotonic()
        if now - self._last.get(name, -_PERIOD_S) < _PERIOD_S:
            self._left_out[name] = self._left_out.get(name, 0) + 1
            return False
        self._last[name] = now
        if count := self._left_out.pop(name, 0):
            record.msg = f"{record.msg} ({count} more since the last such line)"
        return True
