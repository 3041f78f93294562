"""What the service notes of a request beside the operation that it became: what the answer, or a later request, needs.

The engine never sees a note. It is journalled with its operation, so that the answer is worded alike after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.engine_messages.strict_fields import StrictFields, from_fields


@dataclass(frozen=True, slots=True)
class PassNote(StrictFields):
    """Of a forward or forward_backward.

    Attributes:
        forward_only: it leaves no gradients, so a replay leaves it out and its failure harms no step.
        tokens: of all its datums.
    """

    forward_only: bool
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class SampleNote(StrictFields):
    """Of a sample.

    Attributes:
        num_samples: how many ids of sequences the client is promised.
        recorded: its sequences are kept for losses that name them.
        tokens: of its prompt, and most that it may draw.
    """

    num_samples: int
    recorded: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class SaveNote(StrictFields):
    """Of a save under a name; a snapshot needs no note.

    Attributes:
        name: the last part of the checkpoint's path.
        ttl_seconds: how long the checkpoint is kept; None means for ever.
        user_metadata: what the client wants to find with it.
        expected_bytes: about how much it will take on disk.
    """

    name: str
    ttl_seconds: int | None
    user_metadata: dict[str, Any] | None
    expected_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ImportNote(StrictFields):
    """Of the load of an adapter made elsewhere.

    Attributes:
        key: tells a repeated upload from a second one; empty where the client has none.
        save: how the adapter is saved once it is loaded.
    """

    key: str
    save: SaveNote


@dataclass(frozen=True, slots=True)
class LoadNote(StrictFields):
    """Of a load.

    Attributes:
        path: the checkpoint as the client named it; the operation has only the folder that it was pinned to.
        imported: what an import goes on with; None for an ordinary load.
    """

    path: str
    imported: ImportNote | None = None


Note = PassNote | SampleNote | SaveNote | LoadNote

# Operations of other kinds have no note; one that was refused before its request was understood has none either.
NOTES: dict[OpKind, type[Note]] = {
    OpKind.FORWARD_BACKWARD: PassNote,
    OpKind.SAMPLE: SampleNote,
    OpKind.SAVE_STATE: SaveNote,
    OpKind.SAVE_SAMPLER: SaveNote,
    OpKind.LOAD_STATE: LoadNote,
}


def decode_note(kind: OpKind, fields: object) -> Note:
    """Read what `to_fields` returned for the note of an operation.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type, or operations of this kind have no note.
    """
    if kind not in NOTES:
        raise ValueError(f"note: got {fields!r}, expected none for {kind}")
    return from_fields(NOTES[kind], fields, "note")
