"""Where comparisons come from: the set that ships, files, and data sets of the hub; and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinsmith.cookbook.datasets import sorted_letters
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.preference.comparison import check_pair, is_tie, read_comparison
from tinsmith.cookbook.preference.formats import EXPECTED
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.files.hub_rows import NotReachedError, open_hub
from tinsmith.cookbook.rows.row_sequence import Listed, Rows, Subset
from tinsmith.cookbook.rows.sources import names_a_file, open_file
from tinsmith.types.errors import UserError, invalid

SORTED_LETTERS = "sorted_letters"
# Forty batches of 64 to learn from; enough held-out comparisons that one more or less is half a per cent.
_TRAIN_ROWS, _TEST_ROWS = 2560, 200
# By name: the data set of the hub, its subset, the split that is learned, and the one that is asked (None: held out).
NAMED = {
    "hhh": ("Anthropic/hh-rlhf", None, "train", "test"),
    "helpsteer3": ("nvidia/HelpSteer3", "preference", "train", "validation"),
    "ultrafeedback": ("HuggingFaceH4/ultrafeedback_binarized", None, "train_prefs", "test_prefs"),
}
_SHAPES = (
    ("chosen", "rejected"),
    ("response1", "response2"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
)


class Comparisons(NamedTuple):
    """Rows to learn from, and others to ask, which have no prompt in common.

    Attributes:
        name: of the data.
        train, test: rows that `read_comparison` reads.
    """

    name: str
    train: Rows
    test: Rows

    def facts(self) -> dict[str, Any]:
        """Return what a run that learns from them is held to."""
        return {"name": self.name, "train": self.train.facts(), "test": self.test.facts()}


def load_comparisons(
    data: str | None = None,
    test: str | None = None,
    held_out: int | float | None = None,
    seed: int = 0,
    *,
    skip_bad_rows: bool = False,
) -> Comparisons:
    """Return the comparisons that a `data=` setting names.

    Args:
        data: `hhh`, `helpsteer3` or `ultrafeedback`; a `.jsonl`, `.parquet` or `.csv` file of their rows or of TRL's;
            `owner/name` of the hub, of which the train split is taken; or None, `sorted_letters`: comparisons that
            ship, which also stand in, with a warning, for what the hub cannot give.
        test: a file of the held-out ones; None: those of a named set, else `held_out` of the rows.
        held_out: rows, or below 1.0 the share of them; None: 200, or a tenth of fewer than 2,000.
        seed: of the set that ships, and of which rows are held out.
        skip_bad_rows: whether rows of a file that are no comparisons are left out, with a warning, or an error.

    Raises:
        UserError: there are no such data, or they are not well formed; names file and line.
    """
    name = data or SORTED_LETTERS
    try:
        rows, asked = _open(name, held_out, seed, skip_bad_rows)
    except NotReachedError as error:
        warn_once(
            f"hub {name}",
            f"data: {name} cannot be had: the hub {error}; {SORTED_LETTERS} is used in its place. "
            "Give a file of the same rows to train on them offline",
        )
        name = SORTED_LETTERS
        rows, asked = _open(name, held_out, seed, skip_bad_rows)
    if test is not None:
        asked = _file(test, "test", skip_bad_rows)
    if asked is None:
        count = held_out_count(held_out, len(rows), _TEST_ROWS, "comparisons")
        if not 0 < count < len(rows):
            raise invalid("held_out", held_out, f"1 to {len(rows) - 1} rows, or a share of them below 1.0")
        rows, asked = rows.split(count, seed)
    return Comparisons(name, _without_prompts_of(rows, asked), asked)


def without_ties(rows: Rows) -> Rows:
    """Return rows without those in which neither answer was preferred, and say how many were left out."""
    # Only HelpSteer3 has any, and all its rows have that column.
    if not len(rows) or "overall_preference" not in rows[0]:
        return rows
    kept = [index for index, row in enumerate(rows) if not is_tie(row)]
    if not kept:
        raise invalid("data", f"{len(rows)} ties", "at least one row in which an answer was preferred")
    ties = len(rows) - len(kept)
    if ties:
        told = f"data: {ties} of {len(rows)} rows prefer neither answer, and are left out"
        warn_once(f"ties {rows.place(0)}", told)
    return Subset(rows, np.asarray(kept, dtype=np.int64))


def _open(name: str, held_out: int | float | None, seed: int, skip: bool) -> tuple[Rows, Rows | None]:
    if name == SORTED_LETTERS:
        # A share of what is drawn as it is needed would say nothing.
        count = held_out if isinstance(held_out, int) else _TEST_ROWS
        if count < 1:
            raise invalid("held_out", held_out, "at least 1")
        train, test = sorted_letters.rows("train", _TRAIN_ROWS, seed), sorted_letters.rows("held_out", count, seed)
        return Listed(train), Listed(test)
    if names_a_file(name):
        return _file(name, "data", skip), None
    if name in NAMED:
        repository, subset, train, test = NAMED[name]
        return _hub(repository, subset, train), _hub(repository, subset, test)
    if name.count("/") == 1:
        return _hub(name, None, "train"), None
    near = get_close_matches(name, [SORTED_LETTERS, *NAMED], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    names = ", ".join([SORTED_LETTERS, *NAMED])
    raise invalid("data", name, f"{names}, a file of comparisons, or owner/name of the hub{hint}")


def _file(source: str, field: str, skip: bool) -> Rows:
    path = Path(source)
    if not path.is_file():
        raise invalid(field, source, "a file of comparisons (.jsonl, .parquet, .csv) that is there")
    return without_ties(open_file(path, check_pair, _check_columns, field=field, skip=skip))


def _hub(name: str, subset: str | None, split: str) -> Rows:
    return without_ties(open_hub(name, check_pair, subset=subset, split=split))


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not any(all(name in columns for name in shape) for shape in _SHAPES):
        raise invalid(f"{path}: columns", ", ".join(columns), EXPECTED)


def _without_prompts_of(rows: Rows, asked: Rows) -> Rows:
    """Return the rows whose prompt is none that is asked: a prompt on both sides would be asked from memory."""
    unwanted = {read_comparison(row).prompt_key() for row in asked}
    kept = [index for index in range(len(rows)) if _prompt_key(rows, index) not in unwanted]
    if not kept:
        raise invalid(
            "test", f"{len(asked)} rows", "other prompts than those that are trained on: none of them is left"
        )
    if len(kept) == len(rows):
        return rows
    warn_once(
        f"prompts that are asked {rows.place(0)}",
        f"data: {len(rows) - len(kept)} of {len(rows)} rows have a prompt that is held out, and are not trained on",
    )
    return Subset(rows, np.asarray(kept, dtype=np.int64))


def _prompt_key(rows: Rows, index: int) -> str:
    try:
        return read_comparison(rows[index]).prompt_key()
    except UserError as error:
        raise UserError(f"{rows.place(index)}: {error}") from None
