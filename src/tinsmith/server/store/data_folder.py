"""The data folder: where checkpoints, samplers and recovery points lie."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path

import anyio.to_thread

from tinsmith.adapter_files.manifest import MANIFEST
from tinsmith.types.errors import Damaged, StartupError


class DataFolder:
    """Names and makes folders. Paths in the database are relative to the data folder, so that it can be moved.

    Layout: `checkpoints/RUN/KIND/NAME/`, `samplers/SAMPLER/`, `recovery/RUN/...`; `set-aside/` has what nobody knows.

    Raises:
        StartupError: the data folder cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(
                f"data folder: got {self.root}, expected one that can be made and written ({error.strerror})"
            ) from None

    def absolute(self, folder: str) -> Path:
        """Return the absolute path of a relative one."""
        return self.root / folder

    def new_checkpoint(self, run_id: str, kind: str, name: str) -> str:
        """Return a free folder for a checkpoint: its name, with a tail while an older one is still there."""
        folder = f"checkpoints/{run_id}/{kind}/{name}"
        if (self.root / folder).exists():
            # Engines write a folder whole, under a name that must be free.
            folder = f"{folder}~{uuid.uuid4().hex[:8]}"
        (self.root / folder).parent.mkdir(parents=True, exist_ok=True)
        return folder

    def checkpoints_of(self, run_id: str) -> list[str]:
        """Return all checkpoint folders of a run, complete or not."""
        found = (self.root / "checkpoints" / run_id).glob("*/*")
        return sorted(str(path.relative_to(self.root)) for path in found)

    def sampler(self, sampler_id: str) -> str:
        """Return the folder of a sampler."""
        (self.root / "samplers").mkdir(exist_ok=True)
        return f"samplers/{sampler_id}"

    def recovery(self, run_id: str) -> str:
        """Return the folder that holds all that a run is rebuilt from."""
        return f"recovery/{run_id}"

    def new_recovery(self, run_id: str, name: str) -> str:
        """Return a folder for one recovery point or one loaded state of a run."""
        folder = self.recovery(run_id)
        (self.root / folder).mkdir(parents=True, exist_ok=True)
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
        await anyio.to_thread.run_sync(_link_tree, self.root / source, self.root / target)

    async def pin_once(self, source: str, target: str) -> None:
        """As `pin`, into a folder that appears whole; one that is there already stays."""
        await anyio.to_thread.run_sync(_link_tree_once, self.root / source, self.root / target)

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


def _link_tree(source: Path, target: Path) -> None:
    # Files of a checkpoint are never changed in place, so a second link is as good as a copy.
    if target.exists():
        shutil.rmtree(target)
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    # Without its manifest it would be taken for an adapter made elsewhere, which nothing is compared with.
    if not (source / MANIFEST).is_file():
        what = MANIFEST if source.is_dir() else "its folder"
        raise Damaged(f"checkpoint {source.name}: {what} is gone")
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_tree_once(source: Path, target: Path) -> None:
    # Under another name first: requests that name the same weights come side by side.
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    _copy(source, fresh)
    try:
        fresh.rename(target)
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
