"""Where marks lie: a row of the database, a blob beside the others."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, delete, insert, make_url, select, update
from sqlalchemy.exc import IntegrityError

from tinsmith.server.store.db import Database
from tinsmith.server.store.db.integrity import OWNER_TABLE
from tinsmith.server.store.journal.blobs import BlobStore
from tinsmith.server.store.ownership.marks import parse
from tinsmith.types.errors import without_password

# Not one of the migrations' tables: a mark is taken before them, so that a new version does not change the schema under
# an old one that is still running.
_TABLE = Table(
    OWNER_TABLE,
    MetaData(),
    Column("slot", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("id", Text, nullable=False),
    Column("mark", Text, nullable=False),
)
_READ = select(_TABLE.c.mark)
# Where a database has locks for rows: nobody takes the mark until what is being written is committed.
_LOCKED = select(_TABLE.c.id, _TABLE.c.mark).with_for_update(read=True)


class Place(Protocol):
    """One thing that a service may hold.

    Attributes:
        name: how a message calls it.
        setting: which setting chose it.
    """

    name: str
    setting: str

    def read(self) -> str | None:
        """Return the mark that lies there; None where there is none."""
        ...

    def swap(self, old: str | None, new: str | None) -> bool:
        """Put a mark, or none, in the place of another; False, and no change, where that one is no longer there."""
        ...


class DatabasePlace:
    """The row of a database."""

    setting = "TINSMITH_DATABASE_URL"

    def __init__(self, db: Database) -> None:
        self._engine = db.writer.engine
        self.name = f"database {make_url(db.url).render_as_string(hide_password=True)}"
        with self._engine.begin() as connection:
            _TABLE.create(connection, checkfirst=True)

    def read(self) -> str | None:
        with self._engine.begin() as connection:
            return connection.execute(_READ).scalar()

    def swap(self, old: str | None, new: str | None) -> bool:
        with self._engine.begin() as connection:
            if old is not None:
                there = _TABLE.c.mark == old
                change = update(_TABLE).values(_row(new)) if new is not None else delete(_TABLE)
                return connection.execute(change.where(there)).rowcount == 1
            try:
                connection.execute(insert(_TABLE).values(slot=1, **_row(new or "")))
            except IntegrityError:
                return False
            return True


def others_mark(connection: Connection, mark_id: str) -> str | None:
    """Return the mark of another service, or nothing in its place; None while the one that is asked for lies there."""
    row = connection.execute(_LOCKED).first()
    if row is None:
        return ""
    return None if row.id == mark_id else row.mark


def _row(text: str) -> dict[str, str]:
    mark = parse(text)
    return {"id": mark.id if mark is not None else "", "mark": text}


class BlobPlace:
    """A blob."""

    setting = "TINSMITH_BLOB_URL"

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.name = f"blob store {without_password(blobs.url)}"

    def read(self) -> str | None:
        return self._blobs.read_owner()

    def swap(self, old: str | None, new: str | None) -> bool:
        return self._blobs.swap_owner(old, new)
