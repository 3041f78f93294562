"""Data sets of the Hugging Face hub, whole or streamed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, overload

from tinsmith.cookbook.rows.files.table_columns import from_table
from tinsmith.cookbook.rows.intake import Intake
from tinsmith.cookbook.rows.row_digest import RowDigest
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.hub import unreachable
from tinsmith.types.errors import UserError, invalid

# Rows that take so long to check that somebody who waits should see it.
_MANY = 50_000
# Data sets by the names that people call them.
NAMED = {"no_robots": "HuggingFaceH4/no_robots", "tulu3": "allenai/tulu-3-sft-mixture"}


class NotReachedError(Exception):
    """The hub does not answer, and no copy of the data set is on this machine; the message says why."""


class HubRows(Rows):
    """The rows of a data set of the hub, all checked when it is opened; rows that fail are left out and counted.

    Nobody can mend a data set of the hub, so a row that cannot be trained on is no reason to refuse the others.

    Args:
        name: of the data set, for messages about its rows.
        rows: the data set; missing fields may be None in it.
        check: what every row has to pass.

    Raises:
        UserError: no row passes; names the first one and what is wrong with it.
    """

    def __init__(self, name: str, rows: Any, check: RowCheck = check_row) -> None:
        from datasets.utils import tqdm

        self._name = name
        self._rows = rows
        self._check = check
        self._good = array("Q")
        intake = Intake(name, check, skip=True)
        digest = RowDigest()
        for index, row in enumerate(tqdm(rows, desc=f"checking {name}", disable=len(rows) < _MANY)):
            found = intake.take(self._place(index), partial(from_table, row))
            if found is not None:
                digest.add(found)
                self._good.append(index)
        self._facts = intake.close()
        if not self._good:
            raise UserError(f"{name}: no row can be trained on; there is none")
        self._digest = digest.text()  # in passing: going through them all once more would take long

    def __len__(self) -> int:
        return len(self._good)

    def digest(self) -> str:
        return self._digest

    def place(self, index: int) -> str:
        return self._place(self._good[index])

    def read(self, index: int) -> Row:
        return self._check(from_table(self._rows[self._good[index]]), notes=RowNotes())

    def remarks(self) -> dict[str, object]:
        return self._facts

    def _place(self, row: int) -> str:
        return f"{self._name}, row {row}"


@overload
def open_hub(
    name: str, check: RowCheck, *, stream: Literal[False] = False, subset: str | None = None, split: str = "train"
) -> Rows: ...
@overload
def open_hub(
    name: str, check: RowCheck, *, stream: bool, seed: int, subset: str | None = None, split: str = "train"
) -> Rows | RowStream: ...
def open_hub(
    name: str,
    check: RowCheck,
    *,
    stream: bool = False,
    seed: int = 0,
    subset: str | None = None,
    split: str = "train",
) -> Rows | RowStream:
    """Return the rows of a split of a data set of the hub.

    Args:
        name: `owner/name`.
        check: what every row has to pass.
        stream: whether rows are fetched as they are needed; they are shuffled in a buffer then.
        seed: of that shuffle.
        subset: which of the configurations that the data set comes in; None where it has one.
        split: which of its splits.

    Raises:
        UserError: there is no such data set, or none of its rows can be trained on.
        NotReachedError: the hub does not answer, and there is no copy of the data set.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # A short probe of our own, instead of the library's many tries.
    reason = unreachable()
    try:
        with nullcontext() if reason is None else _from_cache_alone():
            found: Any = datasets.load_dataset(name, subset, split=split, streaming=stream)
    except DatasetNotFoundError as error:
        raise invalid("data", name, f"a data set of the hub ({_first_line(error)})") from error
    except (ConnectionError, FileNotFoundError) as error:
        raise NotReachedError(reason or _first_line(error)) from error
    except (ValueError, DatasetsError) as error:
        raise invalid("data", name, f"a data set of the hub with a split {split!r} ({_first_line(error)})") from error
    if not stream:
        return HubRows(name, found, check)
    # Rows that fail are left out as they are met, since nobody has seen the whole stream.
    return RowStream(lambda: map(from_table, found), name=name, seed=seed, check=check, leave_out=True)


@contextmanager
def _from_cache_alone() -> Iterator[None]:
    """Have `datasets` look into its cache only: a hub that cannot be reached it would ask six times, for 23 s."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
