"""SQLite's log is moved into the database file on a thread of its own.

By default a commit does it that finds a thousand pages in the log, and waits for the disk twice: a tenth of a second in
which nobody's request is stored. The moving itself holds up no writer (https://sqlite.org/wal.html, section 3.4).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger("tinsmith.server")

# Between two moves, seconds: rare enough to wait little for the disk, and often enough for a short log.
_EVERY_S = 2.0
# A log that is moved while others write is begun anew only if nothing came in between. From so many pages on (64 MiB),
# the writers wait for that once.
_LONG = 16_384


class Checkpointer:
    """Moves the log as long as there are commits.

    Args:
        engine: of a SQLite database in WAL mode; its writers must have `wal_autocheckpoint` off.
        commits: tells how many there were so far.
    """

    def __init__(self, engine: Engine, commits: Callable[[], int]) -> None:
        self._engine = engine
        self._commits = commits
        self._end = threading.Event()
        # A daemon: what is in the log is as safe as in the file.
        self._thread = threading.Thread(target=self._run, name="tinsmith-checkpointer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; SQLite moves the rest when the last connection is closed."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        done = 0
        told = False
        while not self._end.wait(_EVERY_S):
            commits = self._commits()
            if commits == done:
                continue
            try:
                self._move()
            except (SQLAlchemyError, sqlite3.Error) as error:
                # A full disk, say: the next move may find room, and until then the log grows.
                if not told:
                    log.warning("database: its log cannot be moved into it (%s); it grows until that is mended", error)
                told = True
            else:
                done, told = commits, False

    def _move(self) -> None:
        if self._checkpoint("PASSIVE") > _LONG:
            self._checkpoint("RESTART")

    def _checkpoint(self, mode: str) -> int:
        """Move what can be moved; return how many pages the log has."""
        # Past SQLAlchemy, which would begin a transaction: there must be none.
        connection = self._engine.raw_connection()
        try:
            return int(connection.cursor().execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[1])
        finally:
            connection.close()
