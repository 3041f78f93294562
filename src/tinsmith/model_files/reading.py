"""One file of a checkpoint: text, or a JSON object; faults name the file, and where in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinsmith.types.errors import UserError, invalid

# What stands in the place of a large file where a repository was cloned without git-lfs.
_POINTER = b"version https://git-lfs"


def file_error(place: str, path: Path, found: str, expected: str) -> UserError:
    """Make the error of a file.

    Args:
        place: whose file it is, e.g. `base model NAME`.
        path: of the file.
        found: what it holds, in words.
        expected: what it should.
    """
    return UserError(f"{place}: {path}: got {found}, expected {expected}")


def check_file(place: str, path: Path, expected: str) -> None:
    """Check what a glance can tell: that there is a file with something in it, and not the pointer to one.

    Args:
        place: whose file it is.
        path: of the file.
        expected: what it should hold, e.g. `a JSON object`.

    Raises:
        UserError: it is missing, no file, empty, a pointer of git-lfs, or cannot be read.
    """
    if not path.exists():
        raise file_error(place, path, "no such file", expected)
    if not path.is_file():
        raise file_error(place, path, "a folder", expected)
    try:
        with path.open("rb") as opened:
            start = opened.read(len(_POINTER))
    except OSError as error:
        raise file_error(place, path, f"a file that cannot be read ({error.strerror})", expected) from error
    if not start:
        raise file_error(place, path, "an empty file", expected)
    if start == _POINTER:
        raise file_error(place, path, "the pointer of a git-lfs file", f"{expected}: fetch it with `git lfs pull`")


def read_text(place: str, path: Path, expected: str = "text") -> str:
    """Return the text of a file.

    Raises:
        UserError: there is none, or it is no UTF-8.
    """
    check_file(place, path, expected)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise file_error(place, path, f"bytes that are no UTF-8 text (at byte {error.start})", expected) from error
    except OSError as error:
        raise file_error(place, path, f"a file that cannot be read ({error.strerror})", expected) from error


def read_object(place: str, path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file.

    Raises:
        UserError: there is none, it is no JSON, or no object.
    """
    return parse_object(f"{place}: {path}", read_text(place, path, "a JSON object"))


def parse_object(where: str, text: str) -> dict[str, Any]:
    """Return the fields of a JSON text.

    Args:
        where: what messages call it.
        text: of the object.

    Raises:
        UserError: it is no JSON, or no object.
    """
    try:
        found: Any = json.loads(text)
    # So many brackets that no parser follows; so many digits that Python refuses to count them.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: got a text that is no JSON ({error}), expected a JSON object") from error
    if not isinstance(found, dict):
        raise invalid(where, found, "a JSON object")
    return found


def read_optional(place: str, path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file, none where there is no such file.

    Raises:
        UserError: there is one, and it is no JSON object.
    """
    return read_object(place, path) if path.exists() else {}
