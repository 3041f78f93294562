"""Bulky bodies and results, as files of any file system that fsspec knows."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
import fsspec.core
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from tinsmith.server.faults import NotOurs
from tinsmith.server.store.folder.durable import sync
from tinsmith.types.digests import digest
from tinsmith.types.errors import Damaged, StartupError, without_password

# What is no blob: whose they are, and what that takes.
OWNER = "owner.json"
_LOOK_AGAIN_S = 0.2


class BlobStore:
    """Keys to bytes under one URL.

    Args:
        url: an fsspec URL or a local folder.
        sync: wait until a written file would survive a power loss.

    Raises:
        StartupError: there is nothing that reads and writes such URLs.
    """

    def __init__(self, url: str, sync: bool = False) -> None:
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        # A protocol that nobody knows, or whose package is not installed; a folder has none.
        except (ValueError, ImportError) as error:
            raise StartupError(
                f"TINSMITH_BLOB_URL: got {without_password(url)!r}, expected a URL that fsspec can open ({error})"
            ) from error
        self._fs, self._root = found
        self._local = isinstance(self._fs, LocalFileSystem)
        self._sync = sync
        self.url = url
        # Why nothing more is written or deleted; None while all is well.
        self.refusal: str | None = None
        self._fs.makedirs(self._root, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def local_path(self, key: str) -> str | None:
        """Return the file of a key, if the store is a local folder."""
        return self._path(key) if self._local else None

    async def put(self, key: str, data: bytes, about: bytes = b"") -> str:
        """Write a blob; return the digest of `about`, which says what the blob is, and of its bytes."""
        return await anyio.to_thread.run_sync(self._put, key, data, about)

    def _put(self, key: str, data: bytes, about: bytes) -> str:
        # Here, on a worker thread: a large blob takes a while.
        found = digest(about, data)
        self._write(key, data)
        return found

    def _write(self, key: str, data: bytes) -> None:
        self._check()
        if not self._local:
            self._fs.pipe_file(self._path(key), data)
            return
        # Under its own name at once: no row refers to it before it is whole, and one without a row is swept.
        with Path(self._path(key)).open("wb") as file:
            file.write(data)
            if self._sync:
                file.flush()
                os.fsync(file.fileno())
        if self._sync:
            sync(Path(self._root))  # its name, too

    async def get(self, key: str, wanted: str | None, about: bytes = b"") -> bytes:
        """Read a blob.

        Args:
            wanted: what `put` returned; None where the blob is older than the digests.

        Raises:
            Damaged: it is gone or is not what was written.
        """
        return await anyio.to_thread.run_sync(self._get, key, wanted, about)

    def _get(self, key: str, wanted: str | None, about: bytes) -> bytes:
        try:
            data = self._fs.cat_file(self._path(key))
        except FileNotFoundError as error:
            raise Damaged(f"journal file {key} is gone") from error
        if wanted is not None and digest(about, data) != wanted:
            raise Damaged(f"journal file {key} is damaged ({len(data)} bytes that are not what was written)")
        return data

    async def delete(self, keys: list[str]) -> None:
        """Delete blobs; keys that are gone already are no error."""
        await anyio.to_thread.run_sync(self._delete, keys)

    def _delete(self, keys: list[str]) -> None:
        self._check()
        for key in keys:
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                continue

    def keys(self) -> list[str]:
        """Return all keys."""
        names = [Path(path).name for path in self._fs.ls(self._root, detail=False)]
        return [name for name in names if not name.startswith(OWNER)]

    def _check(self) -> None:
        if self.refusal is not None:
            raise NotOurs(self.refusal)

    # -- whose it is --------------------------------------------------------------------------------------------------

    def read_owner(self) -> str | None:
        """Return what lies beside the blobs to say whose they are; None where there is nothing."""
        try:
            return self._fs.cat_file(self._path(OWNER)).decode(errors="replace")
        except FileNotFoundError:
            return None

    def swap_owner(self, old: str | None, new: str | None) -> bool:
        """Say whose they are, or take that away; False, and no change, where it says something else than `old`."""
        if self._local:
            with FileLock(self._path(f"{OWNER}.lock")):
                return self._swap_owner(old, new)
        if not self._swap_owner(old, new):
            return False
        if new is None:
            return True
        # Few object stores can swap in one step: until whoever came at the same moment has written, too.
        time.sleep(_LOOK_AGAIN_S)
        return self.read_owner() == new

    def _swap_owner(self, old: str | None, new: str | None) -> bool:
        if self.read_owner() != old:
            return False
        if new is None:
            self._fs.rm_file(self._path(OWNER))
        elif self._local:
            # Whoever reads it meanwhile must not find half of it.
            fresh = Path(self._path(f"{OWNER}.new"))
            fresh.write_text(new)
            if self._sync:
                sync(fresh)
            os.replace(fresh, self._path(OWNER))
        else:
            self._fs.pipe_file(self._path(OWNER), new.encode())
        return True
