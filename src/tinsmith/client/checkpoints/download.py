"""Fetching a checkpoint's adapter as a plain PEFT folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel

from tinsmith.client.checkpoints.file_transfer import fetch_file
from tinsmith.client.transport.connection import Connection
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tinsmith.types.names.paths import CheckpointPath

# What PEFT reads. The optimizer of a training state, twice as large as the weights, stays where it is.
_ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    name: str
    size_bytes: int
    sha256: str


class CheckpointFiles(BaseModel):
    """The files of a checkpoint."""

    files: list[CheckpointFile]


def checkpoint_route(path: CheckpointPath) -> str:
    """Return where a service keeps a checkpoint's resources."""
    return f"training_runs/{path.run_id}/checkpoints/{path.checkpoint_id}"


async def download(connection: Connection, path: CheckpointPath, folder: Path) -> Path:
    """Write the adapter of a checkpoint into a folder, all of it or nothing.

    Args:
        connection: to the service that has the checkpoint.
        path: of a training state or of weights for sampling.
        folder: empty, or not there yet.

    Raises:
        UserError: the folder holds something.
        TinsmithError: the checkpoint has no adapter, or a file does not have the service's checksum.
        APIError: the service refused or stayed away.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise invalid("folder", str(folder), "an empty folder, or one that does not exist")
    route = f"{checkpoint_route(path)}/files"
    listed = {file.name: file for file in (await connection.call(CheckpointFiles, "GET", route)).files}
    missing = [name for name in _ADAPTER_FILES if name not in listed]
    if missing:
        raise TinsmithError(f"{path}: holds no {' and no '.join(missing)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, on the same file system, so that the last step is a rename: all of it or nothing.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in _ADAPTER_FILES:
            await fetch_file(connection, f"{route}/{name}", partial / name)
            found = await asyncio.to_thread(_checksum, partial / name)
            if found != listed[name].sha256:
                raise TinsmithError(f"{path}: {name} arrived with checksum {found}, expected {listed[name].sha256}")
        # `mkdtemp` makes folders that only their owner may read.
        partial.chmod(0o755)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return folder


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
