"""Records as rows of the journal and back.

The column `args` holds an operation and its note as `{version, work, note}`. Rows that an earlier Tinsmith wrote have
no version: `{op, wire}`, each half left out where it was empty. They are read for as long as one may still be there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from tinsmith.server.state.notes import Note, decode_note
from tinsmith.server.state.records import Record, State
from tinsmith.types.engine_messages.operation_codec import decode_work
from tinsmith.types.engine_messages.operations import OpKind, Work
from tinsmith.types.engine_messages.strict_fields import to_fields
from tinsmith.types.errors import RequestErrorCategory, StartupError

VERSION = 1

_COPIED = (
    "request_id", "scope", "payload_hash", "owner", "session_id", "base_model", "model_id", "seq_id", "sampler_id",
    "body_blob", "body_digest", "at_door", "result_blob", "media_type", "error", "created_at", "settled_at",
    "fetched_at",
)  # fmt: skip


def to_row(record: Record, instance: str) -> dict[str, Any]:
    """Return the columns of a record, without those of its body and its result."""
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


def from_row(row: Row[Any]) -> Record:
    """Return the record of a row.

    Raises:
        StartupError: the row cannot be read; a later Tinsmith may have written it.
    """
    try:
        kind = OpKind(row.kind)
        work, note = _read_args(kind, row.args)
    except ValueError as error:
        # Going on without it would lose an operation that was acknowledged, and with it everything that follows.
        raise StartupError(f"journal: operation {row.request_id} ({row.kind}) cannot be read: {error}") from error
    record = Record(kind, work=work, note=note, **{name: getattr(row, name) for name in _COPIED})
    record.state = State(row.state)
    record.category = RequestErrorCategory.parse(row.category) if row.category else None
    record.accepted.set()
    if record.state is not State.PENDING:
        record.settled.set()
    return record


def _read_args(kind: OpKind, args: dict[str, Any]) -> tuple[Work | None, Note | None]:
    fields = dict(args)
    if "version" in fields:
        version = fields.pop("version")
        if version != VERSION:
            raise ValueError(f"version: got {version!r}, expected at most {VERSION}; update Tinsmith")
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
