"""Fetching a checkpoint's adapter: in parts, checked, into a folder that appears whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from urllib.parse import quote

from tinsmith.client.connection import Connection
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.responses import CheckpointFile, CheckpointFilesResponse

# What PEFT reads; a state's optimizer stays where it is.
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
_PART_BYTES = 16 << 20
_PARTIAL = 206


def check_target(folder: Path) -> Path:
    """Return the folder to write, as an absolute path.

    Raises:
        UserError: it is there and not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise invalid("folder", str(folder), "a folder that is empty or does not exist yet")
    return folder.absolute()


async def download_adapter(connection: Connection, route: str, target: Path) -> Path:
    """Fetch the PEFT files of a checkpoint into `target`.

    Args:
        connection: to the service that has it.
        route: of the list of its files.
        target: absent or an empty folder.

    Raises:
        APIStatusError: there is no such checkpoint.
        TinsmithError: it holds no adapter, or a file is not what the list says.
    """
    listed = (await connection.call(CheckpointFilesResponse, "GET", route)).files
    files = {file.name: file for file in listed if file.name in PEFT_FILES}
    missing = [name for name in PEFT_FILES if name not in files]
    if missing:
        raise TinsmithError(f"{route}: got {[file.name for file in listed]}, expected {', '.join(missing)} among them")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    fresh.mkdir()
    try:
        for file in files.values():
            await _fetch(connection, f"{route}/{quote(file.name)}", file, fresh / file.name)
        await asyncio.to_thread(_put_in_place, fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


async def _fetch(connection: Connection, route: str, file: CheckpointFile, path: Path) -> None:
    digest = hashlib.sha256()
    position = 0
    with path.open("wb") as out:
        while position < file.size_bytes:
            last = min(position + _PART_BYTES, file.size_bytes) - 1
            response = await connection.send("GET", route, headers={"Range": f"bytes={position}-{last}"})
            # A service that knows no ranges sends the whole file.
            part = response.content if response.status_code == _PARTIAL else response.content[position:]
            if not part:
                break
            position += len(part)
            await asyncio.to_thread(out.write, part)
            digest.update(part)
        out.flush()
        os.fsync(out.fileno())
    if position != file.size_bytes or digest.hexdigest() != file.sha256:
        raise TinsmithError(
            f"{file.name}: got {position} bytes with SHA-256 {digest.hexdigest()}, expected {file.size_bytes} bytes "
            f"with {file.sha256}; nothing was written, try again"
        )


def _put_in_place(fresh: Path, target: Path) -> None:
    if target.exists():
        target.rmdir()
    os.replace(fresh, target)
