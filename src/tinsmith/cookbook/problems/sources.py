"""Where problems come from, and which of them are held out: a test problem is never trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.problems.problem import ANSWERS, QUESTIONS, Problem, read_problem
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.files.hub_rows import NotReachedError, open_hub
from tinsmith.cookbook.rows.row_notes import RowNotes, tell_facts
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.cookbook.rows.sources import names_a_file, open_file
from tinsmith.types.errors import invalid

ARITHMETIC = "arithmetic"
# Problems of one's own: `eval/test/...` are the numbers of those that are held out.
_OWN = "test"
# How many sums are drawn: enough steps to see the model learn, and enough questions to trust the number.
_TRAIN_SUMS, _TEST_SUMS = 960, 200
# Of problems of one's own, where there are enough.
USUAL_HELD_OUT = 200


class _Part(NamedTuple):
    """A split of a data set of the hub, or of one of its subsets."""

    name: str
    split: str
    subset: str | None = None


_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
# By name: what is trained on, and what is asked. MATH-500 is the part of MATH's test split that people report.
NAMED = {
    "gsm8k": ([_Part("openai/gsm8k", "train", "main")], [_Part("openai/gsm8k", "test", "main")]),
    "math": (
        [_Part("EleutherAI/hendrycks_math", "train", subject) for subject in _MATH_SUBJECTS],
        [_Part("HuggingFaceH4/MATH-500", "test")],
    ),
}


class Problems(NamedTuple):
    """Problems to learn from, and others to ask.

    Attributes:
        name: what metrics about them are called.
        train, test: they have no problem in common.
    """

    name: str
    train: list[Problem]
    test: list[Problem]

    def facts(self) -> dict[str, Any]:
        """Return what a run that learns from them is held to."""
        digest = hashlib.sha256(json.dumps([self.train, self.test]).encode()).hexdigest()
        return {"problems": self.name, "train": len(self.train), "test": len(self.test), "sha256": digest}


def load_problems(
    source: str = ARITHMETIC,
    test: str | None = None,
    held_out: float | None = None,
    seed: int = 0,
    *,
    skip_bad_rows: bool | None = None,
) -> Problems:
    """Return the problems that an `env=` setting names.

    Args:
        source: `arithmetic`; `gsm8k` or `math`, whose own test splits are held out; a JSONL file; or `owner/name` of
            the hub, of which the train split is taken. Arithmetic stands in, with a warning, for what the hub cannot
            give.
        test: the held-out problems: a JSONL file, or `owner/name` of the hub, of which the test split is taken. None:
            those of `gsm8k` and `math`, else `held_out` of the rows.
        held_out: rows, or below 1.0 the share of them; None: 200, or a tenth of fewer than 2,000.
        seed: of the sums, and of which rows are held out.
        skip_bad_rows: whether rows of a file that are no problems are left out, with a warning, or an error; None where
            whoever loads them cannot choose.

    Raises:
        UserError: there are no such problems, or they are not well formed; names file and line.
    """
    try:
        return _load(source, test, held_out, seed, skip_bad_rows)
    except NotReachedError as error:
        warn_once(
            f"problems {source}",
            f"env: {source} cannot be had: the hub {error}; arithmetic is used in its place. "
            "Give env=FILE.jsonl and test=FILE.jsonl of the same problems to train on them offline",
        )
        return _load(ARITHMETIC, None, held_out, seed, skip_bad_rows)


def _load(source: str, test: str | None, held_out: float | None, seed: int, skip: bool | None) -> Problems:
    if source == ARITHMETIC:
        learned = [read_problem(row) for row in arithmetic.rows("train", _TRAIN_SUMS, seed)]
        if test is not None:
            return _apart(ARITHMETIC, learned, _open(test, "test", skip))
        return Problems(ARITHMETIC, learned, [*map(read_problem, arithmetic.rows("held_out", _TEST_SUMS, seed))])
    if source in NAMED:
        trained, tested = NAMED[source]
        asked = _of_hub(tested) if test is None else _open(test, "test", skip)
        return _apart(source, _of_hub(trained), asked)
    learned = _open(source, "env", skip)
    if test is None:
        return Problems(_OWN, *_split(learned, held_out, seed))
    return _apart(_OWN, learned, _open(test, "test", skip))


def _open(source: str, field: str, skip: bool | None) -> list[Problem]:
    path = Path(source)
    if names_a_file(source):
        if not path.is_file():
            raise invalid(field, source, "a file that is there: .jsonl, .json, .parquet or .csv")
        rows = open_file(path, _check, _check_columns, field=field, skip=skip)
        tell_facts(source, rows.remarks())
        return [read_problem(row) for row in rows]
    if source.count("/") == 1:
        return _of_hub([_Part(source, "train" if field == "env" else "test")])
    near = get_close_matches(source, [ARITHMETIC, *NAMED], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    names = f"{', '.join([ARITHMETIC, *NAMED])}, " if field == "env" else ""
    raise invalid(field, source, f"{names}a file of problems, or owner/name of the hub{hint}")


def _of_hub(parts: list[_Part]) -> list[Problem]:
    opened = [open_hub(part.name, _check, subset=part.subset, split=part.split) for part in parts]
    return [read_problem(row) for rows in opened for row in rows]


def _check(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    read_problem(row, notes)
    return row


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not any(name in columns for name in QUESTIONS) or not any(name in columns for name in ANSWERS):
        expected = f"one of {', '.join(QUESTIONS)}, and one of {', '.join(ANSWERS)}"
        raise invalid(f"{path}: columns", ", ".join(columns), expected)


def _split(problems: list[Problem], held_out: float | None, seed: int) -> tuple[list[Problem], list[Problem]]:
    # One that stands there twice must not be on both sides.
    different = list({_text(problem): problem for problem in problems}.values())
    count = held_out_count(held_out, len(different), USUAL_HELD_OUT, "problems")
    if not 0 < count < len(different):
        expected = f"1 to {len(different) - 1}, of {len(different)} different problems, or a share of them below 1.0"
        raise invalid("held_out", held_out, expected)
    chosen = sorted(seeded(seed, "held out").permutation(len(different))[:count])
    asked = [different[int(i)] for i in chosen]
    return _without(problems, asked), asked


def _apart(name: str, learned: list[Problem], asked: list[Problem]) -> Problems:
    left = _without(learned, asked)
    if not left:
        raise invalid("test", f"{len(asked)} problems", "others than those that are trained on: none of them is left")
    if len(left) < len(learned):
        warn_once(
            f"overlap {name}",
            f"env: {len(learned) - len(left)} of {len(learned)} problems are test problems as well, and not trained on",
        )
    return Problems(name, left, asked)


def _without(problems: list[Problem], others: list[Problem]) -> list[Problem]:
    unwanted = {_text(problem) for problem in others}
    return [problem for problem in problems if _text(problem) not in unwanted]


def _text(problem: Problem) -> str:
    # The same words in other capitals or other lines are the same problem.
    return " ".join(problem.problem.casefold().split())
