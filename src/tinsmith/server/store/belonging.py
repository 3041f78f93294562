"""Whether a database and a data folder belong together: both count the starts of services on them.

A database that comes from a backup, is new, or is another folder's knows nothing of what was acknowledged since. The
service starts all the same, because what is there is worth something; it says what it found, and deletes nothing that
the missing rows may have named.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Connection, insert, select, update

from tinsmith.server.store.db import Database
from tinsmith.server.store.db.readable import read_rows
from tinsmith.server.store.db.tables import CheckpointRow, DataFolderRow, RunRow
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.folder.durable import sync

log = logging.getLogger("tinsmith.server")

_STAMP = "belongs.json"


def check_belonging(db: Database, data_folder: DataFolder) -> bool:
    """Count one more start; warn where database and data folder do not belong together, and say whether they do."""
    stamp = data_folder.root / _STAMP
    with FileLock(str(data_folder.root / "migrate.lock")):  # services that share the folder start one after another
        ours = _read(stamp)
        with db.writer.engine.begin() as connection:
            theirs = _count(connection, ours)
            used = connection.execute(select(RunRow.id).limit(1)).first() is not None
        # After the database: a death in between leaves the folder one behind, which is no fault.
        fresh = stamp.with_suffix(".tmp")
        fresh.write_text(json.dumps({"id": theirs["id"], "starts": theirs["starts"]}))
        sync(fresh)
        os.replace(fresh, stamp)
        sync(stamp.parent)
    faults = _compare(ours, theirs, used, data_folder)
    for fault in [*faults, *_missing(db, data_folder)]:
        log.warning("data folder %s: %s", data_folder.root, fault)
    return not faults


def _read(stamp: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(stamp.read_text())
        return {"id": str(found["id"]), "starts": int(found["starts"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s); it is written anew", stamp, error)
        return None


def _count(connection: Connection, ours: dict[str, Any] | None) -> dict[str, Any]:
    """Count a start in the database; return its id, its starts, and how many it knew of before."""
    row = connection.execute(select(DataFolderRow.id, DataFolderRow.starts)).first()
    before = row.starts if row is not None and isinstance(row.starts, int) else 0
    # Beyond both, so that the two agree from now on and the same difference is told once.
    starts = max(before, ours["starts"] if ours is not None else 0) + 1
    if row is None:
        known = ours["id"] if ours is not None else uuid.uuid4().hex
        connection.execute(insert(DataFolderRow), {"id": known, "starts": starts})
        return {"id": known, "starts": starts, "before": 0}
    connection.execute(update(DataFolderRow).values(starts=starts))
    return {"id": row.id, "starts": starts, "before": before}


def _compare(ours: dict[str, Any] | None, theirs: dict[str, Any], used: bool, data_folder: DataFolder) -> list[str]:
    held = len(data_folder.matching("checkpoints/*/*/[!.]*"))
    keeps = f"its {held} checkpoints are kept, but those without a row are not listed"
    if not used and held:
        return [f"the database is new, but the folder is not: was its database moved or deleted? {keeps}"]
    if ours is None:
        return []
    if ours["id"] != theirs["id"]:
        return [f"the database is that of another data folder (got {theirs['id']}, expected {ours['id']}); {keeps}"]
    if theirs["before"] < ours["starts"]:
        behind = f"it knows of {theirs['before']} of {ours['starts']} starts"
        return [f"the database is older than the folder ({behind}): was it restored from a backup? {keeps}"]
    if theirs["before"] > ours["starts"] + 1:
        behind = f"it knows of {ours['starts']} of {theirs['before']} starts"
        return [f"the folder is older than the database ({behind}): was it restored from a backup?"]
    return []


def _missing(db: Database, data_folder: DataFolder) -> list[str]:
    rows = db.read(lambda connection: read_rows(connection, CheckpointRow, select(CheckpointRow.id)))
    folders = [one.row.folder for one in rows if one.row.folder is not None]
    gone = sorted(folder for folder in folders if not data_folder.absolute(folder).is_dir())
    if not gone:
        return []
    return [f"{len(gone)} of {len(rows)} checkpoints in the database have no folder, {gone[0]} among them"]
