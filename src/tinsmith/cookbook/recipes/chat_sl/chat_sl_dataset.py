"""Which conversations are learned, and what the tuned model is asked beside the loss on those that are held out."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.cookbook.datasets import general, pig_latin
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.supervised import load_rows
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

PIG_LATIN = "pig_latin"
_FOR_REAL_MODELS = "no_robots"
# Enough that one word more or less is half a per cent.
_TEST_WORDS = 200
# Ten of each of its thirteen skills.
_GENERAL_ROWS = 130


def data_name(data: str | None, model_name: str) -> str:
    """Return what to learn where nobody said: pig latin for the embedded model, NoRobots for every other."""
    return data or (PIG_LATIN if model_name == EMBEDDED_MODEL else _FOR_REAL_MODELS)


def held_out_words(seed: int) -> list[Row]:
    """Return pig latin of words that no training set holds, the one of the embedded model included."""
    return pig_latin.rows(pig_latin.draw_words("held_out", _TEST_WORDS, seed))


def general_rows(path: str | None, seed: int, *, skip_bad_rows: bool = False) -> Sequence[Row]:
    """Return the set that says what was forgotten: a file's rows, or what the embedded model can do.

    Raises:
        UserError: the file cannot be read or is not well formed.
    """
    if path is None:
        return general.rows(_GENERAL_ROWS, seed)
    rows = load_rows(path, seed, skip_bad_rows=skip_bad_rows)
    if isinstance(rows, RowStream):
        raise invalid("general", path, "rows of known number, not a stream")
    return rows
