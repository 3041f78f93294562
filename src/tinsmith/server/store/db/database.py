"""Connections to the database: SQLite in WAL mode by default, anything SQLAlchemy speaks by URL."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError

from tinsmith.server.store.db.checkpointer import Checkpointer
from tinsmith.server.store.db.integrity import check_integrity, check_ours
from tinsmith.server.store.db.writer import RowWrite, Writer
from tinsmith.types.errors import StartupError, without_password

log = logging.getLogger("tinsmith.server")

T = TypeVar("T")
Durability = Literal["normal", "full"]

# The newest migration; a test compares it with the scripts. Knowing it saves the import of Alembic on most starts.
SCHEMA_VERSION = "0007"
# Services that share a data folder share its database: how long one waits for another's commit.
_BUSY_TIMEOUT_MS = 30_000
# Reads at once. More would wait for each other's turn of the interpreter, and hold threads that others need meanwhile.
_MOST_READS = 8
# Between tries to write what must be written, seconds; the last one over and over.
_RETRY_S = (0.5, 1, 2, 5, 10, 30)


def default_url(data_dir: Path) -> str:
    """Return the URL of the SQLite database in a data folder."""
    return f"sqlite:///{data_dir / 'tinsmith.db'}"


class Database:
    """One database: reads from a pool of connections, writes through one thread.

    Args:
        url: a SQLAlchemy URL.
        durability: `normal` survives a killed process, `full` a power loss too.

    Raises:
        StartupError: there is nothing that speaks to such a database.
    """

    def __init__(self, url: str, durability: Durability = "normal") -> None:
        self.url = url
        self._reading = _connect(url, durability, "DEFERRED")
        self._reads = anyio.CapacityLimiter(_MOST_READS)
        # IMMEDIATE takes the write lock at BEGIN, where SQLite waits for it; a lock that is wanted later, by a
        # transaction that has read already, may be refused at once.
        self.writer = Writer(_connect(url, durability, "IMMEDIATE"))
        sqlite = make_url(url).get_backend_name() == "sqlite"
        self._checkpointer = Checkpointer(self._reading, lambda: self.writer.commits) if sqlite else None

    def migrate(self, lock: Path) -> None:
        """Check the database and bring its schema up to date; several processes may call this at once.

        Raises:
            StartupError: it is damaged, or a later version of Tinsmith or another program made it.
        """
        self.check(lock)
        self.upgrade(lock)

    def check(self, lock: Path) -> None:
        """Check that the database is whole and one of ours; nothing is written.

        Raises:
            StartupError: it is damaged, or a later version of Tinsmith or another program made it.
        """
        with FileLock(str(lock)):
            self.read(check_integrity)
            version = self._version()
            # Revisions have four digits each, so that they compare as numbers would.
            if version is not None and not re.fullmatch(r"\d{4}", version):
                raise StartupError(
                    f"database: got schema {version!r}, expected one of Tinsmith's, like {SCHEMA_VERSION}"
                )
            if version is not None and version > SCHEMA_VERSION:
                raise StartupError(
                    f"database: got schema {version}, expected at most {SCHEMA_VERSION}; update Tinsmith"
                )

    def upgrade(self, lock: Path) -> None:
        """Bring the schema of a database that was checked up to date; several processes may call this at once."""
        with FileLock(str(lock)):
            version = self._version()
            if version == SCHEMA_VERSION:
                return
            from tinsmith.server.store.migrations import upgrade

            if version is not None:
                log.info("database: schema %s becomes %s; earlier versions refuse it then", version, SCHEMA_VERSION)
            with self.writer.engine.connect() as connection:
                upgrade(connection)

    def _version(self) -> str | None:
        with self._reading.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                check_ours(connection)
                return None
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return str(found) if found is not None else "nothing"

    def read(self, job: Callable[[Connection], T]) -> T:
        """Run a reading job on the calling thread."""
        with self._reading.connect() as connection:
            return job(connection)

    async def read_async(self, job: Callable[[Connection], T]) -> T:
        """Run a reading job on a worker thread."""
        return await anyio.to_thread.run_sync(self.read, job, limiter=self._reads)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run a writing job in the next group commit and wait until it is committed.

        Raises:
            SQLAlchemyError: the job or the commit failed; nothing of the job is stored.
        """
        return await self.writer.submit(job)

    async def tidy(self, job: Callable[[Connection], T]) -> T:
        """Run a writing job when no request waits for the writer, or soon; wait until it is committed.

        For what the service does by itself: rows that are no longer needed, dates. What is written later by `write` may
        be stored before it.

        Raises:
            SQLAlchemyError: the job or the commit failed; nothing of the job is stored.
        """
        return await self.writer.submit_patient(job)

    async def write_row(self, row: RowWrite) -> None:
        """Write a row in the next group commit, with others of the same statement; wait until it is committed.

        Raises:
            SQLAlchemyError: the row or the commit failed; nothing of the row is stored.
        """
        await self.writer.submit_row(row)

    async def write_until_stored(self, job: Callable[[Connection], Any]) -> None:
        """Run a writing job, again and again where the database cannot take it now: its disk is full, say.

        For what the service does by itself, which no client repeats; it may take for ever, so nothing else should wait.
        """
        for delay in itertools.chain(_RETRY_S, itertools.repeat(_RETRY_S[-1])):
            try:
                await self.write(job)
                return
            except OperationalError as error:
                log.warning("the database could not be written (%s); next try in %g s", error.orig, delay)
                await asyncio.sleep(delay)

    def close(self) -> None:
        """Commit what is queued and close all connections."""
        if self._checkpointer is not None:
            self._checkpointer.close()
        self.writer.close()
        self._reading.dispose()


def _connect(url: str, durability: Durability, begin: str) -> Engine:
    try:
        if make_url(url).get_backend_name() != "sqlite":
            return create_engine(url, pool_pre_ping=True)
    # No URL, a database that nobody knows, or one whose driver is not installed; the default is none of these.
    except (ArgumentError, ImportError, ValueError) as error:
        raise StartupError(
            f"TINSMITH_DATABASE_URL: got {without_password(url)!r}, expected a SQLAlchemy URL of a database whose "
            f"driver is installed, such as postgresql+psycopg://... ({error})"
        ) from error
    # The pool lends a connection to one thread at a time.
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection, _record) -> None:  # pyright: ignore[reportUnusedFunction, reportMissingParameterType]
        # The driver's own implicit BEGIN would come too late for savepoints; `_begin` sends it instead.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        # `Checkpointer` does it.
        connection.execute("PRAGMA wal_autocheckpoint = 0")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # Past SQLAlchemy, which takes longer for this line than SQLite does.
        connection.connection.cursor().execute(f"BEGIN {begin}")

    return engine
