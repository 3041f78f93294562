"""Checksums of the files of a folder: in the manifest of what was saved here, or beside what was made elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tinsmith.types.errors import Damaged, UserError

# What was saved here: its facts, and a checksum of every file.
MANIFEST = "state.json"
# Checksums only, of an adapter that was made elsewhere, from the moment it has arrived.
ARRIVED = "arrived.json"
_FORMAT = 1
# Under this key a manifest has the checksum of all else that it says; those of before have none.
_OWN_SUM = "sha256"


def to_manifest(facts: dict[str, Any]) -> bytes:
    """Return the manifest of a folder.

    Args:
        facts: what it tells; under `files` the size and SHA-256 of each file by name.
    """
    told = {"format": _FORMAT, **facts}
    return json.dumps({**told, _OWN_SUM: _sum_of(told)}, indent=2).encode()


def _sum_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def seal_arrival(folder: Path) -> None:
    """Write down the checksums of the files of an adapter that has arrived."""
    sums: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        sums[path.name] = {"sha256": checksum, "size": path.stat().st_size}
    (folder / ARRIVED).write_bytes(to_manifest({"files": sums}))


def read_arrival(folder: Path) -> dict[str, Any] | None:
    """Return the checksums of an adapter that was made elsewhere; None where it has come without.

    Raises:
        Damaged: they are not what was written.
    """
    return _read(folder, ARRIVED)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, None where it has none (then it was written elsewhere).

    Raises:
        Damaged: the manifest is not what was written.
        UserError: it is of a later format.
    """
    return _read(folder, MANIFEST)


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        format_ = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {folder.name}: got a {name} that cannot be read, expected JSON") from error
    if format_ != _FORMAT:
        raise UserError(f"checkpoint {folder.name}: got format {format_}, expected format {_FORMAT}")
    wanted = manifest.pop(_OWN_SUM, None)
    if wanted not in (None, found := _sum_of(manifest)):
        raise Damaged(f"checkpoint {folder.name}: got {name} with SHA-256 {found}, expected {wanted}: damaged")
    return manifest


def read_file(folder: Path, name: str, manifest: dict[str, Any] | None) -> bytes:
    """Read one file and compare it with the manifest's checksum.

    Raises:
        Damaged: by the manifest, the file is missing or not what was written.
        UserError: there is no manifest and no such file.
    """
    path = folder / name
    if not path.is_file():
        fault = UserError if manifest is None else Damaged
        raise fault(f"checkpoint {folder.name}: got no {name}, expected a folder that holds it")
    data = path.read_bytes()
    if manifest is not None:
        wanted = manifest["files"].get(name, {}).get("sha256")
        found = hashlib.sha256(data).hexdigest()
        if wanted != found:
            raise Damaged(f"checkpoint {folder.name}: got {name} with SHA-256 {found}, expected {wanted}: damaged")
    return data
