"""What a run was told to do since its last recovery point, as files in its recovery folder: `recovery/RUN/ops/`.

A service inside a script has no journal that others could come back to: its clients end with it. But what they trained
is worth more than they are, so the operations of each run are kept for as long as it lives, and go with its folder.
A file is `PLACE.STATE`: one line of JSON, the row of the journal, and the body after it. Place 0 is the run's creation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from tinsmith.server.state.records import Record, State
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.journal.operation_rows import from_row, sealed, to_row
from tinsmith.types.digests import digest
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import Damaged

log = logging.getLogger("tinsmith.server")

# Larger bodies are written on a thread of their own; for smaller ones that takes longer than the writing.
_LARGE = 64 * 1024
_CREATIONS = (OpKind.CREATE_MODEL, OpKind.LOAD_STATE)
_LEAVES_NOTHING = (OpKind.SAVE_STATE, OpKind.SAVE_SAMPLER, OpKind.SNAPSHOT, OpKind.SKIP)


class RunLog:
    """Operations that have a place in a run's order, and its creation.

    It survives a killed process, not a power loss: nothing is synced. Where the disk is full, a warning says so and the
    script goes on; what comes after the hole is read again from the next recovery point on.
    """

    def __init__(self, data_folder: DataFolder) -> None:
        self._data_folder = data_folder
        self._warned: set[str] = set()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def add(self, record: Record) -> None:
        """Write an operation that was accepted, refused ones too: they have taken their place."""
        path = self._path(record, record.state)
        if path is None:
            return
        large = record.body is not None and len(record.body) > _LARGE
        try:
            if record.seq_id is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            if large:
                await anyio.to_thread.run_sync(_write, path, record)
            else:
                _write(path, record)
        except FileNotFoundError:
            return  # its session has ended meanwhile, and the folder is gone
        except OSError as error:
            path.unlink(missing_ok=True)  # half of it would be taken for the whole
            self._warn(record.model_id or "", error)

    def settle(self, record: Record) -> None:
        """Note how an operation ended."""
        old, new = self._path(record, State.PENDING), self._path(record, record.state)
        if old is None or new is None:
            return
        try:
            old.rename(new)
        except FileNotFoundError:
            return  # it could not be written, which was said, or its session has ended
        except OSError as error:
            self._warn(record.model_id or "", error)

    async def cut(self, records: Sequence[Record]) -> None:
        """Remove what a recovery point holds: of each run, all up to the last of these."""
        upto: dict[str, int] = {}
        for record in records:
            if record.model_id is not None and record.seq_id is not None:
                upto[record.model_id] = max(record.seq_id, upto.get(record.model_id, 0))
        for model_id, last in upto.items():
            await anyio.to_thread.run_sync(_remove_to, self._folder(model_id), last)
            self._warned.discard(model_id)

    def _warn(self, model_id: str, error: OSError) -> None:
        if model_id not in self._warned:
            self._warned.add(model_id)
            log.warning(
                "run %s: a step could not be written to the data folder (%s); if this process is killed before the "
                "next recovery point, the steps from here on are lost, unless they are saved",
                model_id,
                error,
            )

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, model_id: str, after: int = 0) -> list[Record]:
        """Return a run's creation, if it is there, and its operations behind a place, in order and without bodies.

        It ends where one is missing, is damaged, or has no outcome although it would have changed the run: nobody was
        told of what comes after that.
        """
        found = {int(path.stem): path for path in self._folder(model_id).glob("*.*") if path.stem.isdigit()}
        records: list[Record] = []
        if 0 in found:
            creation = _read(found[0])
            if creation is not None and creation.state is State.DONE:
                records.append(creation)
        for place in range(after + 1, max(found, default=0) + 1):
            record = _read(found[place]) if place in found else None
            if record is None or (record.state is State.PENDING and not leaves_nothing(record)):
                break
            try:
                self.body(record)
            except (Damaged, OSError) as error:
                log.warning("run %s: what comes after operation %d is lost: %s", model_id, place - 1, error)
                break
            records.append(record)
        return records

    def body(self, record: Record) -> bytes | None:
        """Return an operation's body; None where it has none.

        Raises:
            Damaged: it is not what was written.
        """
        path = self._path(record, record.state)
        if record.body_digest is None or path is None:
            return None
        body = path.read_bytes().partition(b"\n")[2]
        if digest(body) != record.body_digest:
            raise Damaged(f"{path}: its body is not what was written")
        return body

    def _folder(self, model_id: str) -> Path:
        return self._data_folder.absolute(f"{self._data_folder.recovery(model_id)}/ops")

    def _path(self, record: Record, state: State) -> Path | None:
        creation = record.kind in _CREATIONS and record.scope is not None and not record.at_door
        if record.model_id is None or (record.seq_id is None and not creation):
            return None
        return self._folder(record.model_id) / f"{record.seq_id or 0:012d}.{state.value}"


def leaves_nothing(record: Record) -> bool:
    """Whether a run is the same without an operation."""
    return record.forward_only or record.kind in _LEAVES_NOTHING


def _write(path: Path, record: Record) -> None:
    body = record.body if not leaves_nothing(record) else None
    row = sealed(to_row(record, ""))
    row |= {"args": json.dumps(row["args"]), "body_digest": digest(body) if body is not None else None}
    with path.open("wb") as file:
        file.write(json.dumps(row).encode() + b"\n")
        file.write(body or b"")


def _read(path: Path) -> Record | None:
    """Return the operation of a file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline())
        record = from_row(row | {"state": path.suffix[1:]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s: it cannot be read: %s", path, error)
        return None
    if record.damage is not None:
        log.warning("%s: %s", path, record.damage)
        return None
    return record


def _remove_to(folder: Path, last: int) -> None:
    for path in folder.glob("*.*"):
        if path.stem.isdigit() and 0 < int(path.stem) <= last:
            path.unlink(missing_ok=True)
