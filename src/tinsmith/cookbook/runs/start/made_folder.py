"""The folder of a run as a start finds or makes it, and leaves it where nothing comes of that start."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tinsmith.cookbook.runs.start.folder import unusable
from tinsmith.types.errors import invalid


class MadeFolder:
    """A folder that is there from now on.

    Args:
        log_path: where; None makes a new one, `runs/RECIPE-DATE-TIME`.
        recipe: its name.

    Attributes:
        path: the folder.

    Raises:
        UserError: it has no name, or cannot be made.
    """

    def __init__(self, log_path: str | None, recipe: str) -> None:
        self._made: list[Path] = []
        try:
            self.path = self._new(recipe) if log_path is None else self._named(log_path)
            self._before = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise unusable(log_path, error) from error

    def _named(self, log_path: str) -> Path:
        if not log_path:  # as a shell makes of a variable that is not set; "." is the folder one stands in
            raise invalid("log_path", log_path, "a folder; leave it out, or None, for a new one under ./runs")
        path = Path(log_path).expanduser()
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._made = missing
        return path

    def _new(self, recipe: str) -> Path:
        first = Path("runs") / time.strftime(f"{recipe}-%Y%m%d-%H%M%S")
        above = [] if first.parent.exists() else [first.parent]
        first.parent.mkdir(exist_ok=True)
        # `mkdir` decides who has a name: two runs that start in the same second get a folder each.
        for path in _names(first):
            with suppress(FileExistsError):
                path.mkdir()
                self._made = [path, *above]
                return path
        raise AssertionError("names do not end")

    def give_back(self, notes: Collection[str]) -> bool:
        """Leave the folder as it was found, if this start added nothing but notes about itself; say whether it did.

        Args:
            notes: names of files and folders that are of no use without the run.
        """
        try:
            added = [entry for entry in self.path.iterdir() if entry.name not in self._before]
            if any(entry.name not in notes for entry in added):
                return False
            for entry in added:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            for folder in self._made:  # the innermost first
                folder.rmdir()
        # Somebody else uses it, or it cannot be written any more: then it stays, which harms nobody.
        except OSError:
            return False
        return True


@contextmanager
def recipe_folder(log_path: str | None, recipe: str) -> Iterator[Path]:
    """Make the folder of a recipe of several runs, which lie in it; it is gone again where none of them came to be.

    Raises:
        UserError: it has no name, or cannot be made.
    """
    folder = MadeFolder(log_path, recipe)
    try:
        yield folder.path
    except BaseException as error:
        kept = not folder.give_back(())
        if isinstance(error, KeyboardInterrupt):
            # Behind what the run that was stopped has said: it is this folder that the command takes up.
            error.add_note(how_to_go_on(folder.path) if kept else NOTHING_KEPT)
        raise


NOTHING_KEPT = "stopped before the first step; nothing was kept"


def how_to_go_on(path: Path, done: str = "stopped") -> str:
    """Return the line that says how a run is taken up again."""
    return f"{done}; to go on: the same command with log_path={path}"


def _names(first: Path) -> Iterator[Path]:
    yield first
    for number in count(2):
        yield first.with_name(f"{first.name}-{number}")
