"""Records as rows of the journal and back.

The column `args` holds an operation and its note as `{version, work, note, digest}`; the digest is of the whole row as
it was accepted. Version 1 had none. Rows of the first form have no version: `{op, wire}`, each half left out where it
was empty. All are read for as long as one may still be there.
"""

from __future__ import annotations

import json
from types import NoneType
from typing import Any

from tinsmith.server.state.notes import Note, decode_note
from tinsmith.server.state.records import Record, State, new_id
from tinsmith.types.digests import digest
from tinsmith.types.engine_messages.operation_codec import decode_work
from tinsmith.types.engine_messages.operations import OpKind, Work
from tinsmith.types.engine_messages.strict_fields import to_fields
from tinsmith.types.errors import RequestErrorCategory

VERSION = 2

# What stays as it was accepted; the digest covers it.
_ACCEPTED: dict[str, tuple[type, ...]] = {
    "request_id": (str,),
    "scope": (str, NoneType),
    "payload_hash": (str,),
    "owner": (str,),
    "session_id": (str, NoneType),
    "base_model": (str,),
    "model_id": (str, NoneType),
    "seq_id": (int, NoneType),
    "sampler_id": (str, NoneType),
}
_CHANGING: dict[str, tuple[type, ...]] = {
    "body_blob": (str, NoneType),
    "body_digest": (str, NoneType),
    "at_door": (bool,),
    "result_blob": (str, NoneType),
    "outcome_digest": (str, NoneType),
    "media_type": (str, NoneType),
    "error": (str, NoneType),
    "created_at": (float,),
    "settled_at": (float, NoneType),
    "fetched_at": (float, NoneType),
}
_COPIED = _ACCEPTED | _CHANGING


def to_row(record: Record, instance: str) -> dict[str, Any]:
    """Return the columns of a record, without those of its body and its result; `sealed` completes it."""
    row = {name: getattr(record, name) for name in _COPIED}
    category = record.category.value if record.category else None
    return row | {
        "instance": instance,
        "kind": record.kind.value,
        "args": {
            "version": VERSION,
            "work": to_fields(record.work) if record.work is not None else None,
            "note": to_fields(record.note) if record.note is not None else None,
        },
        "state": record.state.value,
        "category": category,
    }


def sealed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the digest of what stays as it was accepted."""
    args = row["args"]
    return row | {"args": args | {"digest": _row_digest(row, args["work"], args["note"])}}


def _row_digest(row: dict[str, Any], work: object, note: object) -> str:
    accepted = [row["kind"], *(row[name] for name in _ACCEPTED), work, note]
    return digest(json.dumps(accepted, sort_keys=True).encode())


def about_outcome(record: Record) -> bytes:
    """Return what an outcome's digest covers beside the result."""
    category = record.category.value if record.category else None
    return json.dumps([record.request_id, record.state.value, record.media_type, record.error, category]).encode()


def from_row(row: dict[str, Any]) -> Record:
    """Return the record of a row, whose `args` are the text of their JSON.

    What cannot be read is named in the record's `damage`: one row must not keep the service from starting.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name, types in _COPIED.items():
        value = row[name]
        # SQLite keeps whole numbers of a float column as they come.
        value = float(value) if float in types and isinstance(value, int) else value
        if not isinstance(value, types):
            faults.append(f"{name}: got {value!r}, expected {types[0].__name__}")
            value = None if NoneType in types else _EMPTY[types[0]]()
        values[name] = value
    kind = _read_kind(row["kind"], faults)
    work = note = None
    try:
        work, note = _read_args(kind, row)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        faults.append(str(error))
    values["request_id"] = values["request_id"] or new_id()
    record = Record(kind, work=work, note=note, **values)
    record.accepted.set()
    lost = _read_outcome(record, row)
    if work is None and record.state is not State.FAILED and not faults:
        faults.append("args: got no operation, expected one")  # only what was refused has none
    # What has failed took no effect, whatever else it was to be. Unless not even its kind is known, that is enough.
    if lost or (faults and (record.state is not State.FAILED or kind is OpKind.SKIP)):
        record.damage = f"journal: operation {record.request_id} ({kind}) cannot be read: {'; '.join(faults + lost)}"
    return record


_EMPTY: dict[type, Any] = {str: str, float: float, bool: bool}


def _read_kind(kind: object, faults: list[str]) -> OpKind:
    try:
        return OpKind(kind)
    except ValueError:
        faults.append(f"kind: got {kind!r}, expected one of {', '.join(OpKind)}")
        return OpKind.SKIP


def _read_outcome(record: Record, row: dict[str, Any]) -> list[str]:
    """Set a record's outcome; return what is wrong with it, in which case it counts as failed."""
    faults: list[str] = []
    category = row["category"]
    record.category = RequestErrorCategory.parse(category) if isinstance(category, str) else None
    try:
        record.state = State(row["state"])
    except ValueError:
        faults.append(f"state: got {row['state']!r}, expected one of {', '.join(State)}")
    stored = record.outcome_digest
    if record.state is State.PENDING and stored is not None:
        faults.append("state: got 'pending', expected 'done' or 'failed' beside an outcome")
    # That of a result is compared when the result is asked for.
    elif record.state is State.FAILED and stored not in (None, digest(about_outcome(record))):
        faults.append("its outcome is not what was written")
    if faults:
        record.state, record.category = State.FAILED, RequestErrorCategory.SERVER
        record.error = f"its outcome is lost: {'; '.join(faults)}"
    if record.state is not State.PENDING:
        record.settled.set()
    return faults


def _read_args(kind: OpKind, row: dict[str, Any]) -> tuple[Work | None, Note | None]:
    if not isinstance(row["args"], str):
        raise ValueError(f"args: got {row['args']!r}, expected JSON")
    fields = json.loads(row["args"])
    if not isinstance(fields, dict):
        raise ValueError(f"args: got {fields!r}, expected a JSON object")
    if "version" in fields:
        version = fields.pop("version")
        if version not in (1, VERSION):
            raise ValueError(f"version: got {version!r}, expected at most {VERSION}; update Tinsmith")
        if version == VERSION and fields.pop("digest", None) != _row_digest(row, fields["work"], fields["note"]):
            raise ValueError("it is not what was written")
    else:
        fields = _from_first_form(kind, fields)
    work, note = fields.pop("work"), fields.pop("note")
    if fields:
        raise ValueError(f"args: got {sorted(fields)} too, expected version, work and note")
    return (
        decode_work(kind, work) if work is not None else None,
        decode_note(kind, note) if note is not None else None,
    )


def _from_first_form(kind: OpKind, args: dict[str, Any]) -> dict[str, Any]:
    """Return `{work, note}` for `{op, wire}`; what neither knows stays beside them and is refused."""
    fields = dict(args)
    work: dict[str, Any] | None = fields.pop("op", None)
    note: dict[str, Any] | None = dict(fields.pop("wire", {})) or None
    if kind is OpKind.FORWARD_BACKWARD:
        work = work or {}  # it has no fields, so nothing was written
    if note is not None:
        # These repeated what the operation and the row's kind say.
        for name in ("kind", "checkpoint_folder", "pinned"):
            note.pop(name, None)
        if "import_key" in note:
            note["imported"] = {"key": note.pop("import_key"), "save": note.pop("save")}
    return fields | {"work": work, "note": note}
