"""What a disk holds after a power loss, by a recording of what was written and synced.

The harshest disk that POSIX allows keeps of a file only what was synced before, and of a folder only the entries from
before it was synced itself. A milder one has written some of the rest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Change:
    """One recorded call; `other` is the new name of what is renamed or linked."""

    op: str
    offset: int
    path: str
    other: str
    data: bytes


def read_recording(file: Path) -> list[Change]:
    """Return the changes in the order in which they happened."""
    return list(_changes(file.read_bytes()))


def _changes(recorded: bytes) -> Iterator[Change]:
    at = 0
    while at < len(recorded):
        end = recorded.index(b"\n", at)
        op, offset, length, path, other = recorded[at:end].decode().split("\t")
        at = end + 1 + int(length)
        yield Change(op, int(offset), path, other, recorded[end + 1 : at])


@dataclass(eq=False)
class Node:
    """A file, or a folder, on the disk."""

    folder: bool
    content: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list[Change])
    entries: dict[str, Node] = field(default_factory=dict["str", "Node"])
    stored: dict[str, Node] = field(default_factory=dict["str", "Node"])


class Disk:
    """A disk below one folder; `power_loss` says what is left of it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = Node(folder=True)

    def _find(self, path: str) -> tuple[Node, str]:
        """Return the folder that names a path, and the name there."""
        *parents, name = [part for part in path.removeprefix(self._root).split("/") if part]
        node = self._top
        for parent in parents:
            node = node.entries[parent]
        return node, name

    def apply(self, change: Change) -> None:
        """Do what was recorded."""
        if change.path == self._root:
            if change.op == "sync":
                self._top.stored = dict(self._top.entries)
            return
        # A file that was removed while it was open: nobody can find what is written there.
        if change.path.endswith(" (deleted)"):
            return
        folder, name = self._find(change.path)
        match change.op:
            case "create" | "mkdir":
                folder.entries[name] = Node(folder=change.op == "mkdir")
            case "unlink":
                del folder.entries[name]
            case "rename" | "link":
                there, new = self._find(change.other)
                there.entries[new] = folder.entries[name]
                if change.op == "rename":
                    del folder.entries[name]
                    # Renaming is one step: the old name is not left behind by a disk that has stored the new one.
                    if there is not folder:
                        raise AssertionError(f"a rename between folders is not told apart here: {change}")
            case "sync":
                node = folder.entries[name]
                _write(node.content, node.pending)
                node.pending = []
                node.stored = dict(node.entries)
            case _:
                folder.entries[name].pending.append(change)

    def power_loss(self, target: Path, draw: random.Random | None) -> None:
        """Write what is left; `draw` decides what of the rest was on its way, None leaves all of it out."""
        target.mkdir(parents=True)
        _leave(self._top, target, draw)


def _leave(node: Node, target: Path, draw: random.Random | None) -> None:
    entries = dict(node.stored)
    if draw is not None and draw.random() < 0.5:
        entries = dict(node.entries)
    for name, child in entries.items():
        if child.folder:
            (target / name).mkdir()
            _leave(child, target / name, draw)
            continue
        content = bytearray(child.content)
        _write(content, [change for change in child.pending if draw is not None and draw.random() < 0.5])
        (target / name).write_bytes(content)


def _write(content: bytearray, changes: list[Change]) -> None:
    for change in changes:
        if change.op == "truncate":
            content.extend(bytes(max(0, change.offset - len(content))))
            del content[change.offset :]
        else:
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.data)] = change.data
