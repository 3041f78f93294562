"""What a row of a problem may be, where problems come from, and that none is trained on and asked as well."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from tinsmith.cookbook import notices
from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.problems import Problem, load_problems, read_problem
from tinsmith.types.errors import UserError

BOX = "It is $\\boxed{\\frac{1}{2}}$."


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None, str], list[Any]]:
    """A hub that answers, with the splits that a test puts into it."""
    stored: dict[tuple[str, str | None, str], list[Any]] = {}

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> Any:
        assert not streaming
        if not any(name == known for known, _, _ in stored):
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        if (name, subset, split) not in stored:
            raise ValueError(f'Unknown split "{split}"')
        return datasets.Dataset.from_list(stored[name, subset, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("tinsmith.cookbook.rows.files.hub_rows.unreachable", lambda: None)
    return stored


@pytest.mark.row(97)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"problem": " 1+1 ", "answer": "2"}, Problem("1+1", "2")),
        ({"question": "1+1?", "answer": 2}, Problem("1+1?", "2")),
        ({"prompt": "1+1?", "answer": 2.5, "kind": "sum"}, Problem("1+1?", "2.5", "sum")),
        ({"problem": "1+1", "question": None, "answer": "2", "type": ""}, Problem("1+1", "2")),
        # As GSM8K has it, and as MATH and MATH-500 have it.
        ({"question": "How far?", "answer": "1,000 + 8\n#### 1,008"}, Problem("How far?", "1008")),
        (
            {"problem": "Half?", "solution": BOX, "type": "Algebra", "level": "Level 5"},
            Problem("Half?", "\\frac{1}{2}", "Algebra"),
        ),
        ({"problem": "Half?", "solution": "long", "answer": "1/2", "subject": "A"}, Problem("Half?", "1/2", "A")),
        ({"problem": "Half?", "answer": BOX}, Problem("Half?", "\\frac{1}{2}")),
    ],
)
def test_the_rows_that_people_have(row: dict[str, Any], expected: Problem) -> None:
    assert read_problem(row) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1+1", "row: got '1\\+1', expected an object with"),
        ({"answer": "2"}, r"row: got \['answer'\], expected one of problem, question, prompt"),
        ({"problem": "1+1"}, r"row: got \['problem'\], expected one of answer, solution"),
        ({"problem": " ", "answer": "2"}, "problem: got ' ', expected a text that is not empty"),
        ({"problem": "1+1", "answer": True}, "answer: got True, expected a text"),
        ({"problem": "1+1", "answer": ""}, "answer: got '', expected a text"),
        ({"problem": "1+1", "solution": "it is two"}, "solution: got 'it is two', expected a solution whose last"),
        ({"problem": "1+1", "answer": "####"}, "expected a solution with a line"),
        ({"problem": "1+1", "answer": "2" * 1001}, "answer: got '1001 characters', expected the answer alone"),
    ],
)
def test_rows_that_nobody_could_answer_are_refused(row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_problem(row)


@pytest.mark.row(89)
def test_sums_of_the_two_splits_never_meet_in_any_order() -> None:
    for seed in range(3):
        problems = load_problems(seed=seed)
        assert (problems.name, len(problems.test)) == ("arithmetic", 200)
        sides = [{frozenset(row.problem.split("+")) for row in side} for side in (problems.train, problems.test)]
        assert not sides[0] & sides[1]
        assert problems == load_problems("arithmetic", seed=seed)
        for row in [*problems.train[:20], *problems.test[:20]]:
            a, b = map(int, row.problem.split("+"))
            assert row == Problem(f"{a}+{b}", str(a + b), "carry" if a % 10 + b % 10 > 9 else "no_carry")
    assert load_problems(seed=0).facts() != load_problems(seed=1).facts()
    with pytest.raises(UserError, match="count: got 9999, expected 1 to "):
        arithmetic.rows("held_out", 9999)


@pytest.mark.row(97)
def test_a_file_holds_some_of_its_rows_out_and_repeated_ones_with_them(tmp_path: Path) -> None:
    rows = [{"problem": f"{i} + 1", "answer": str(i + 1)} for i in range(20)]
    path = write(tmp_path / "mine.jsonl", *rows, *({**row, "problem": f" {row['problem']} "} for row in rows))
    problems = load_problems(path, held_out=5)
    assert (problems.name, len(problems.train), len(problems.test)) == ("test", 30, 5)
    assert not {p.problem for p in problems.train} & {p.problem for p in problems.test}
    assert len(load_problems(path, held_out=0.25).test) == 5
    assert load_problems(path, held_out=5, seed=1).test != problems.test
    with pytest.raises(UserError, match="held_out: got 20, expected 1 to 19, of 20 different problems"):
        load_problems(path, held_out=20)


@pytest.mark.row(97)
def test_a_test_file_is_never_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write(tmp_path / "a.jsonl", *({"problem": f"What is {i}?", "answer": i} for i in range(4)))
    test = write(tmp_path / "b.jsonl", {"problem": "what IS  2?", "answer": 2}, {"problem": "new", "answer": 1})
    problems = load_problems(train, test)
    assert [problem.answer for problem in problems.train] == ["0", "1", "3"]
    assert [problem.problem for problem in problems.test] == ["what IS  2?", "new"]
    assert "env: 1 of 4 problems are test problems as well, and not trained on" in caplog.text
    with pytest.raises(UserError, match="test: got '4 problems', expected others than those that are trained on"):
        load_problems(train, train)


@pytest.mark.row(74, 97)
def test_gsm8k_and_math_come_from_the_hub_with_their_own_test_splits(
    hub: dict[tuple[str, str | None, str], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    hub["openai/gsm8k", "main", "train"] = [
        {"question": "How many?", "answer": "2+2=4\n#### 4"},
        {"question": "Unanswered?", "answer": "nobody knows\n#### "},
    ]
    hub["openai/gsm8k", "main", "test"] = [{"question": "How old?", "answer": "so #### 1,200"}]
    problems = load_problems("gsm8k")
    assert problems == ("gsm8k", [Problem("How many?", "4")], [Problem("How old?", "1200")])
    assert "1 of 2 rows of openai/gsm8k are left out; row 1" in caplog.text

    subjects = ["algebra", "counting_and_probability", "geometry", "intermediate_algebra"]
    subjects += ["number_theory", "prealgebra", "precalculus"]
    for subject in subjects:
        rows = [{"problem": f"A problem of {subject}", "solution": BOX, "type": subject, "level": "Level 1"}]
        hub["EleutherAI/hendrycks_math", subject, "train"] = rows
    test = {"problem": "Half?", "solution": BOX, "answer": "\\frac{1}{2}", "subject": "algebra", "level": 1}
    hub["HuggingFaceH4/MATH-500", None, "test"] = [test]
    problems = load_problems("math")
    assert [problem.kind for problem in problems.train] == subjects
    assert problems.test == [Problem("Half?", "\\frac{1}{2}", "algebra")]
    # Any other set of the hub, and its test split.
    hub["my/own", None, "train"] = [{"problem": "1+1", "answer": "2"}]
    hub["my/own", None, "test"] = [{"problem": "1+2", "answer": "3"}]
    assert load_problems("my/own", "my/own") == ("test", [Problem("1+1", "2")], [Problem("1+2", "3")])
    with pytest.raises(UserError, match="got 'HuggingFaceH4/MATH-500', expected a data set of the hub with a split 't"):
        load_problems("HuggingFaceH4/MATH-500")


@pytest.mark.row(97, 105)
@pytest.mark.parametrize("source", ["gsm8k", "math", "my/own"])
def test_what_the_hub_cannot_give_is_replaced_by_arithmetic_and_said(
    source: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        problems = load_problems(source)
    assert problems == load_problems("arithmetic")
    assert f"env: {source} cannot be had: the hub " in caplog.text
    assert "arithmetic is used in its place. Give env=FILE.jsonl and test=FILE.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("source", "test", "message"),
    [
        ("gsm8", None, r"env: got 'gsm8', expected arithmetic, gsm8k, math, a file .*\(did you mean 'gsm8k'\?\)"),
        ("nowhere/a.jsonl", None, "env: got 'nowhere/a.jsonl', expected a file that is there"),
        ("arithmetic", "mine", "test: got 'mine', expected a file of problems, or owner/name of the hub"),
        ("{folder}/bad.jsonl", None, "bad.jsonl, line 2: problem: got 3, expected a text"),
    ],
)
def test_what_is_no_source_is_refused_by_name(tmp_path: Path, source: str, test: str | None, message: str) -> None:
    write(tmp_path / "bad.jsonl", {"problem": "1+1", "answer": 2}, {"problem": 3, "answer": 2})
    with pytest.raises(UserError, match=message):
        load_problems(source.format(folder=tmp_path), test)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"system": "Be brief."}, "system: got 'Be brief.', expected none beside problem: only the question is asked"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages: got"),
        ({"prompt": "other"}, "prompt: got 'other', expected none beside problem, or the same text"),
        ({"images": ["x"]}, "images: got ['x'], expected none: models here read texts alone"),
    ],
)
def test_what_would_be_left_out_of_a_question_is_refused(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        read_problem({"problem": "1+1", "answer": "2", **more})
    assert str(error.value).startswith(expected)


def test_problems_come_from_tables_too_and_bad_rows_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("problem,answer,id\n1+1,2,a\n2+2,,b\n3+3,6,c\n4+4,8,d\n")
    with pytest.raises(UserError, match=r"sums\.csv, line 3: row: got .* expected one of answer, solution$"):
        load_problems(str(path), held_out=1)
    found = load_problems(str(path), held_out=1, skip_bad_rows=True)
    assert (len(found.train), len(found.test)) == (2, 1)
    path.write_text("title,answer\nx,1\n")
    with pytest.raises(
        UserError, match=r"columns: got 'title, answer', expected one of problem, question, prompt, and"
    ):
        load_problems(str(path))
