"""Where rows come from: a JSONL file, a data set of the hub, or the set that ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.supervised.files import JsonlRows, Row, check_row
from tinsmith.types.errors import UserError

_OFFLINE_WORDS = 12_800


def load_rows(data: str | None, seed: int = 0, renderer: Renderer | None = None) -> Sequence[Row]:
    """Return the training rows that a `data=` setting names.

    Args:
        data: a JSONL file; or the name of a hub data set with `messages` or `text` rows, such as
            `HuggingFaceH4/no_robots`, replaced by pig latin with a warning where the hub cannot be reached; None is
            pig latin.
        seed: of the words of pig latin.
        renderer: whose format has to be able to say the conversations; None asks for well-formed ones only.

    Raises:
        UserError: the file is not there or not well formed; names file and line.
    """
    if data is None:
        return pig_latin.rows(pig_latin.draw_words("train", _OFFLINE_WORDS, seed))
    path = Path(data)
    if path.suffix or path.exists() or data.count("/") != 1:
        return JsonlRows(path, renderer)
    return _hub_rows(data, seed, renderer)


def _hub_rows(name: str, seed: int, renderer: Renderer | None) -> Sequence[Row]:
    import datasets

    try:
        found = datasets.load_dataset(name, split="train")
    except (ConnectionError, FileNotFoundError, OSError) as error:
        warn_once(
            f"hub {name}",
            f"data: {name!r} cannot be had from the hub ({type(error).__name__}); pig latin is used in its place. "
            "Give a JSONL file of the same rows to train on them offline",
        )
        return load_rows(None, seed)
    return HubRows(name, found, renderer)


class HubRows(Sequence[Row]):
    """The rows of a data set of the hub, checked as they are read."""

    def __init__(self, name: str, rows: Any, renderer: Renderer | None = None) -> None:
        self._name = name
        self._renderer = renderer
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            return check_row(dict(self._rows[index]), self._renderer)
        except UserError as error:
            raise UserError(f"{self._name}, row {index}: {error}") from None

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
