"""Whether a database can be worked with: it is whole, and it is ours. If not, one line says what to do."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, inspect, make_url
from sqlalchemy.exc import DBAPIError

from tinsmith.server.store.db.tables import Base
from tinsmith.types.errors import StartupError

log = logging.getLogger("tinsmith.server")

# The start waits for the check at most so long, seconds: 420 MB take 0.3 s from memory, and a disk is slower.
_CHECK_S = 5.0
# How many of SQLite's steps pass between two looks at the clock.
_STEPS = 100_000
# The table of `store/ownership/`, which is there before any other.
OWNER_TABLE = "service_owner"
_WHAT_TO_DO = (
    "restore it from a backup, or move it away with its -wal file and start anew: checkpoints/ is kept "
    "(`sqlite3 FILE .recover` may save its rows)"
)


def check_integrity(connection: Connection) -> None:
    """Check the pages of a SQLite file, as far as the time allows; other databases look after themselves.

    Raises:
        StartupError: it is damaged; says what to do.
    """
    if connection.dialect.name != "sqlite":
        return
    driver = connection.connection.driver_connection
    if driver is None:
        return
    until = time.monotonic() + _CHECK_S
    driver.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    try:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    except DBAPIError as error:
        if "interrupted" not in str(error.orig):
            raise damaged(connection.engine.url.render_as_string(), str(error.orig)) from None
        log.info("database: it is large, so only what could be checked in %g s has been", _CHECK_S)
        return
    finally:
        driver.set_progress_handler(None, 0)
    if found != "ok":
        raise damaged(connection.engine.url.render_as_string(), str(found))


def damaged(url: str, reason: str) -> StartupError:
    """Return the error that says what to do about a database that cannot be read."""
    words = ("malformed", "not a database", "invalid page", "corrupt", "***", "ree ")  # `Tree 4 page 7: ...`
    if not url.startswith("sqlite") or not any(word in reason for word in words):
        return StartupError(f"database: it cannot be used: {_line(reason)}")
    return StartupError(f"database {make_url(url).database}: damaged ({_line(reason)}): {_WHAT_TO_DO}")


def _line(text: str) -> str:
    return " ".join(text.split())


def check_ours(connection: Connection) -> None:
    """Check that a database without a schema version is empty.

    Raises:
        StartupError: it has tables already, so another program made it.
    """
    there = set(inspect(connection).get_table_names()) - {OWNER_TABLE}
    # A schema of a large database may be shared; a file is one program's.
    theirs = there if connection.dialect.name == "sqlite" else there & set(Base.metadata.tables)
    if theirs:
        some = ", ".join(sorted(theirs)[:3])
        raise StartupError(f"database: got tables of another program ({some}), expected an empty one or Tinsmith's own")
