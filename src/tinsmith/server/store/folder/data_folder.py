"""The data folder: where checkpoints, samplers and recovery points lie."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from pathlib import Path

import anyio.to_thread

from tinsmith.adapter_files.manifest import MANIFEST
from tinsmith.server.store.folder.durable import make_folders, sync, sync_tree
from tinsmith.types.errors import Damaged, StartupError

log = logging.getLogger("tinsmith.server")

_FOLDERS = ("blobs", "checkpoints", "instances", "recovery", "samplers", "set-aside")
_FILES = ("tinsmith.db", "tinsmith.db-wal", "tinsmith.db-shm", "serve.json", "belongs.json")


class DataFolder:
    """Names and makes folders. Paths in the database are relative to the data folder, so that it can be moved.

    Layout: `checkpoints/RUN/KIND/NAME/`, `samplers/SAMPLER/`, `recovery/RUN/...`; `set-aside/` has what nobody knows.

    Args:
        root: made if it is not there.
        durable: what is made here survives a power loss.

    Raises:
        StartupError: the data folder cannot be made.
    """

    def __init__(self, root: Path, durable: bool = False) -> None:
        self.root = root.resolve()
        self.durable = durable
        try:
            make_folders(self.root, durable, 0o700)
        except OSError as error:
            raise StartupError(
                f"data folder: got {self.root}, expected one that can be made and written ({error.strerror})"
            ) from None

    def keep_private(self) -> None:
        """Keep what lies here from other users of the machine, whatever the umask and whoever made the folder."""
        if self.root.stat().st_mode & 0o077:
            log.warning("data folder %s: others may enter it; only what the service wrote is closed to them", self.root)
        for name in _FOLDERS:
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
            _restrict(self.root / name, 0o700)
        # SQLite makes its other files with the mode of the first; an empty one is a new database to it.
        (self.root / _FILES[0]).touch(mode=0o600)
        for name in _FILES:
            _restrict(self.root / name, 0o600)
        if self.durable:
            sync(self.root)

    def absolute(self, folder: str) -> Path:
        """Return the absolute path of a relative one."""
        return self.root / folder

    def new_checkpoint(self, run_id: str, kind: str, name: str) -> str:
        """Return a free folder for a checkpoint: its name, with a tail while an older one is still there."""
        folder = f"checkpoints/{run_id}/{kind}/{name}"
        if (self.root / folder).exists():
            # Engines write a folder whole, under a name that must be free.
            folder = f"{folder}~{uuid.uuid4().hex[:8]}"
        make_folders((self.root / folder).parent, self.durable)
        return folder

    def checkpoints_of(self, run_id: str) -> list[str]:
        """Return all checkpoint folders of a run, complete or not."""
        found = (self.root / "checkpoints" / run_id).glob("*/*")
        return sorted(str(path.relative_to(self.root)) for path in found)

    def sampler(self, sampler_id: str) -> str:
        """Return the folder of a sampler."""
        return f"samplers/{sampler_id}"

    def recovery(self, run_id: str) -> str:
        """Return the folder that holds all that a run is rebuilt from."""
        return f"recovery/{run_id}"

    def new_recovery(self, run_id: str, name: str) -> str:
        """Return a folder for one recovery point or one loaded state of a run."""
        folder = self.recovery(run_id)
        make_folders(self.root / folder, self.durable)
        return f"{folder}/{name}-{uuid.uuid4().hex[:8]}"

    async def remove_session(self, session_id: str) -> None:
        """Remove what a session's samplers and runs needed while they were alive."""
        for kind in ("samplers", "recovery"):
            # With a dot in front: what was being written when an engine died.
            for path in [*(self.root / kind).glob(f"{session_id}:*"), *(self.root / kind).glob(f".{session_id}:*")]:
                await self.remove(str(path.relative_to(self.root)))

    async def pin(self, source: str, target: str) -> None:
        """Make `target` hold the files of a checkpoint, so that deleting or replacing that does no harm.

        Raises:
            Damaged: the checkpoint's folder, or its manifest, is gone. What else it holds is compared by who reads it.
        """
        await anyio.to_thread.run_sync(_link_tree, self.root / source, self.root / target, self.durable)

    async def pin_once(self, source: str, target: str) -> None:
        """As `pin`, into a folder that appears whole; one that is there already stays."""
        await anyio.to_thread.run_sync(_link_tree_once, self.root / source, self.root / target, self.durable)

    def matching(self, pattern: str) -> list[str]:
        """Return the folders that match a pattern, sorted by name."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))

    async def set_aside(self, folder: str) -> str:
        """Move a folder out of the way, whole; return where it is now. One that is gone already is no error."""
        return await anyio.to_thread.run_sync(self._set_aside, folder)

    def _set_aside(self, folder: str) -> str:
        target = f"set-aside/{folder}"
        if (self.root / target).exists():
            target = f"{target}~{uuid.uuid4().hex[:8]}"
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.root / folder).rename(self.root / target)
        return target

    async def remove(self, folder: str) -> None:
        """Remove a folder; one that is gone already is no error."""
        await anyio.to_thread.run_sync(_remove, self.root / folder)


def _restrict(path: Path, mode: int) -> None:
    """Take from a path what others may do with it; one that is not there is no error."""
    # Another user's, or on a file system without modes: the warning about the folder is all that can be done.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if path.stat().st_mode & 0o077:
            path.chmod(mode)


def _link_tree(source: Path, target: Path, durable: bool) -> None:
    # Files of a checkpoint are never changed in place, so a second link is as good as a copy.
    if target.exists():
        shutil.rmtree(target)
    _copy(source, target)
    if durable:
        sync_tree(target)


def _copy(source: Path, target: Path) -> None:
    # Without its manifest it would be taken for an adapter made elsewhere, which nothing is compared with.
    if not (source / MANIFEST).is_file():
        what = MANIFEST if source.is_dir() else "its folder"
        raise Damaged(f"checkpoint {source.name}: {what} is gone")
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_tree_once(source: Path, target: Path, durable: bool) -> None:
    # Under another name first: requests that name the same weights come side by side.
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    _copy(source, fresh)
    try:
        if durable:
            sync_tree(fresh)
        fresh.rename(target)
        if durable:
            sync(target.parent)
    except OSError:
        shutil.rmtree(fresh)
        if not target.is_dir():
            raise


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or another device
        shutil.copy2(source, target)


def _remove(folder: Path) -> None:
    while folder.is_dir():
        # Somebody else may be removing it, too: then files are gone before they are met, and others are left.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
