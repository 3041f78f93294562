"""Bulky bodies and results, as files of any file system that fsspec knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio.to_thread
import fsspec.core
from fsspec.implementations.local import LocalFileSystem


class BlobStore:
    """Keys to bytes under one URL.

    Args:
        url: an fsspec URL or a local folder.
        sync: wait until a written file would survive a power loss.
    """

    def __init__(self, url: str, sync: bool = False) -> None:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        self._fs, self._root = found
        self._local = isinstance(self._fs, LocalFileSystem)
        self._sync = sync
        self._fs.makedirs(self._root, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def local_path(self, key: str) -> str | None:
        """Return the file of a key, if the store is a local folder."""
        return self._path(key) if self._local else None

    async def put(self, key: str, data: bytes) -> None:
        """Write a blob."""
        await anyio.to_thread.run_sync(self._put, key, data)

    def _put(self, key: str, data: bytes) -> None:
        if not self._local:
            self._fs.pipe_file(self._path(key), data)
            return
        # Under its own name at once: no row refers to it before it is whole, and one without a row is swept.
        with Path(self._path(key)).open("wb") as file:
            file.write(data)
            if self._sync:
                file.flush()
                os.fsync(file.fileno())

    async def get(self, key: str) -> bytes:
        """Read a blob.

        Raises:
            FileNotFoundError: there is none.
        """
        return await anyio.to_thread.run_sync(self._fs.cat_file, self._path(key))

    async def delete(self, keys: list[str]) -> None:
        """Delete blobs; keys that are gone already are no error."""
        await anyio.to_thread.run_sync(self._delete, keys)

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                continue

    def keys(self) -> list[str]:
        """Return all keys."""
        return [Path(path).name for path in self._fs.ls(self._root, detail=False)]
