"""Rows of data as a hash, by which a run that is taken up again knows the data it was begun with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What a row is learned from; its other keys may change.
_LEARNED = (
    *("messages", "prompt", "completion", "text", "tools", "segments", "text_control_tokens", "text_eos"),
    # Comparisons, in the shapes they are published in.
    *("conversations", "system", "input", "preferred_output", "non_preferred_output"),
    *("chosen", "rejected", "context", "response1", "response2", "overall_preference"),
    *("instruction", "chosen_response", "rejected_response"),
)


# Not of the file: hub data sets and lists have none.
class RowDigest:
    """SHA-256 of what rows are learned from, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        learned = {name: row[name] for name in _LEARNED if name in row}
        self._hash.update(json.dumps(learned, default=_plain).encode() + b"\n")

    def text(self) -> str:
        """Return the hash of the rows so far, in hexadecimal."""
        return self._hash.hexdigest()


def digest_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of rows."""
    digest = RowDigest()
    for row in rows:
        digest.add(row)
    return digest.text()


def digest_of_file(path: Path) -> str:
    """Return the hash of a file's bytes: of large data, faster by far than that of its rows.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # arrays of token ids
        return value.tolist()
    # The text of any other object may hold its address, which differs between two starts.
    return type(value).__qualname__
