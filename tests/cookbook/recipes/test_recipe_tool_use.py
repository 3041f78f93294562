"""Tool use: what is right, where questions come from, what an answer is worth, a run that learns to look things up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.recipes.expected import expected_numbers, run_without_arguments
from tests.cookbook.rl.scripted import tiny_renderer
from tests.cookbook.rl.speaking import call, calls, play
from tests.cookbook.rl.sums import assert_same_rows, rows
from tinsmith.cookbook.recipes.tool_use.config import Config
from tinsmith.cookbook.recipes.tool_use.matching import contains, exact_match, f1_score
from tinsmith.cookbook.recipes.tool_use.tool_use_dataset import draw, held_out_groups, load_task
from tinsmith.cookbook.recipes.tool_use.tool_use_env import Grading, Library, Question, SearchEnv
from tinsmith.cookbook.recipes.tool_use.train import main
from tinsmith.cookbook.rl import Document, DocumentIndex, EnvFromMessageEnv, ToolLimits, Trajectory
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.words import split_of
from tinsmith.types.errors import UserError


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def small(folder: Path, *arguments: str, log_path: str = "run") -> Config:
    settings = ["drawn=20", "held_out=4", "batch_size=2", "group_size=2", "max_steps=2", "lora_rank=4", "max_turns=3"]
    return parse(Config, [*settings, f"log_path={folder}/{log_path}", *arguments])


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], True),
        ("EIFFEL tower!", ["Louvre", "the Eiffel Tower"], True),
        ("the tower", ["Eiffel Tower"], False),
        ("3.5", ["35"], False),
        ("-2", ["2"], False),
        ("1,000", ["1000"], True),
        ("$1000.", ["1000"], True),
        ("1990-1995", ["1990 1995"], True),
        ("covid-19", ["COVID 19"], True),
        ("ﬁne", ["fine"], True),
        ("", ["x"], False),
    ],
)
def test_answers_are_compared_by_their_words(said: str, answers: list[str], right: bool) -> None:
    assert exact_match(said, answers) == right
    assert (f1_score(said, answers) == 1.0) == right


def test_parts_of_an_answer_and_answers_in_a_text() -> None:
    assert f1_score("in the old town of Bern", ["Bern", "old town"]) == pytest.approx(2 * 2 / (5 + 2))
    assert f1_score("Geneva", ["Bern"]) == 0.0
    assert contains("It lies in Bern, in 1990.", ["1990"])
    assert contains("the capital: Bern", ["Basel", "a capital Bern"])
    assert not contains("in 19905", ["1990"])
    assert not contains("Bernese", ["Bern"])


@pytest.mark.row(98)
def test_drawn_questions_follow_from_the_seed_and_stand_in_the_documents_alone() -> None:
    train, test = draw("train", 60, 0), draw("held_out", 30, 0)
    assert train == draw("train", 60, 0) != draw("train", 60, 1)
    assert draw("train", 20, 0) == train[:20]
    assert len({thing for _, thing, _ in train}) == 60
    assert {split_of(thing) for _, thing, _ in test} == {"held_out"}
    assert all(thing in text and value not in text for text, thing, value in [*train, *test])
    task = load_task(Config(drawn=90, held_out=30))
    assert [question.text for question in task.test] == [text for text, _, _ in test]
    assert task.best_constant() <= 2 / 30
    (lookup,) = task.tools
    _, thing, value = test[0]
    assert lookup(key=thing) == f"{thing}\n{value}"
    assert lookup(key="nobody") == "nothing found"


LIBRARY = Library(DocumentIndex([Document("Bern is the capital.", "Switzerland"), Document("A river.", "Aare")]), 2)


def answered(*says: Any, **grading: bool) -> Trajectory:
    renderer = tiny_renderer()

    def env() -> EnvFromMessageEnv:
        question = Question("What is the capital of Switzerland?", ("Bern",))
        return EnvFromMessageEnv(renderer, SearchEnv(question, [LIBRARY.search], Grading(**grading), ToolLimits()))

    return play(renderer, env, says)[0]


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.row(98)
def test_a_right_answer_is_worth_something_where_it_was_found() -> None:
    search = calls(call("search", query="capital of Switzerland"))
    found = answered(search, said("Bern."))
    assert found.reward == 1.0
    last = found.transitions[-1].metrics
    assert (last["correct"], last["retrieved"], last["called"], last["f1"]) == (1.0, 1.0, 1.0, 1.0)
    assert answered(search, said("Zurich")).reward == 0.0
    assert answered(search, said("The city of Bern")).reward == 0.0
    assert answered(search, said("The city of Bern"), partial_credit=True).reward == 0.5
    assert answered(said("Bern")).reward == 0.0
    assert answered(said("Bern")).transitions[-1].metrics["correct"] == 1.0
    assert answered(said("Bern"), require_retrieval=False).reward == 1.0
    assert answered(calls(call("search", query="river")), said("Bern")).reward == 0.0


def test_documents_and_questions_of_ones_own(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", {"text": "Bern is the capital.", "title": "Switzerland"}, {"text": "x"})
    asked = [{"question": f"Capital {i}?", "answer": ["Bern", "Berne"] if i else "Bern", "note": 1} for i in range(9)]
    questions = write(tmp_path / "questions.jsonl", *asked, {"question": "capital 3", "answer": "Bern"})
    config = parse(Config, [f"corpus={corpus}", f"questions={questions}", "held_out=3", "results=1"])
    task = load_task(config)
    assert len(task.test) == 3
    assert len(task.train) in (6, 7)  # a question that is asked twice is not on both sides
    assert not {q.text.casefold().strip("?") for q in task.train} & {q.text.casefold().strip("?") for q in task.test}
    assert task.best_constant() == 1.0
    assert [given.name for given in task.tools] == ["search"]
    assert task.tools[0](query="capital of Switzerland") == "Switzerland\nBern is the capital."
    assert "Search the documents" in str(task.system_prompt)
    assert task.facts["corpus"]["rows"] == 2
    renderer = tiny_renderer()

    def prompt(tools: bool) -> str:
        (builder, *_) = held_out_groups(config, task, renderer, tools=tools).get_batch(0)
        env = builder.make_env()  # pyright: ignore[reportAttributeAccessIssue]
        return str(env.env.messages) + str(env.env.tools)

    assert "Search the documents" in prompt(True)
    assert "Reply with the answer alone" in prompt(False)
    assert "earch" not in prompt(False)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus", {"title": "x"}, "corpus.jsonl, line 2: text: got None, expected a text that is not empty"),
        ("corpus", {"text": "x", "title": 3}, "corpus.jsonl, line 2: title: got 3, expected a text"),
        ("corpus", "3", "corpus.jsonl, line 2: row: got 3, expected an object"),
        ("questions", {"question": " ", "answer": "x"}, "questions.jsonl, line 2: question: got ' '"),
        ("questions", {"question": "x"}, "questions.jsonl, line 2: answer: got None, expected a text that is not"),
        ("questions", {"question": "x", "answer": []}, r"questions.jsonl, line 2: answer: got \[\]"),
        ("questions", "{", "questions.jsonl, line 2: not JSON"),
    ],
)
def test_a_line_that_is_none_is_named(file: str, line: Any, message: str, tmp_path: Path) -> None:
    lines = {"corpus": [{"text": "x"}], "questions": [{"question": "x", "answer": "y"}]}
    lines[file].append(line)
    settings = [f"{name}={write(tmp_path / f'{name}.jsonl', *given)}" for name, given in lines.items()]
    with pytest.raises(UserError, match=message):
        load_task(parse(Config, [*settings, "held_out=1"]))


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["corpus=x"], "questions: got None, expected a JSONL file exactly where corpus is given"),
        (["held_out=0"], "held_out: got 0, expected a number of questions"),
        (["results=0"], "results: got 0, expected at least 1"),
        (["tool_seconds=0"], "tool_seconds: got 0"),
    ):
        with pytest.raises(UserError, match=message):
            parse(Config, arguments)
    with pytest.raises(UserError, match="held_out: got 20, expected at least one of the 20 questions, and not all"):
        main(parse(Config, [f"log_path={tmp_path}/run", "drawn=20", "held_out=20"]))
    with pytest.raises(UserError, match="corpus: got 'nowhere', expected a JSONL file that can be read"):
        main(small(tmp_path, "corpus=nowhere", "questions=x"))
    twice = [{"question": "x", "answer": "y"}] * 3
    corpus, questions = write(tmp_path / "c", {"text": "x"}), write(tmp_path / "q", *twice)
    one_question = parse(Config, [f"corpus={corpus}", f"questions={questions}", "held_out=1"])
    with pytest.raises(UserError, match=r"questions: got .*, expected questions to train on"):
        load_task(one_question)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.row(98, 112)
def test_a_short_run_measures_before_and_after_and_comes_out_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(small(tmp_path))
    shown = capsys.readouterr().out
    assert "right answers without the tool" in shown
    assert "one answer for all" in shown
    first = rows(tmp_path / "run")
    assert [row["step"] for row in first if "eval/test/correct" in row] == [0, 2]
    assert {"eval/no_tool/correct", "eval/test/retrieved", "eval/test/tool_errors/unknown_tool"} <= set(first[0])
    assert first[0]["env/turns"] > 1
    main(small(tmp_path, log_path="again"))
    assert_same_rows(rows(tmp_path / "again"), first)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(98, 108)
def test_without_arguments_it_comes_to_the_numbers_of_its_readme(tmp_path: Path) -> None:
    run_without_arguments("tool_use", tmp_path)
    found = rows(tmp_path / "run")
    before, after, constant = expected_numbers("tool_use")["right answers"]
    assert found[0]["eval/test/correct"] == pytest.approx(before, abs=0.08)
    assert found[-1]["eval/test/correct"] == pytest.approx(after, abs=0.12)
    assert found[-1]["eval/test/correct"] > max(found[0]["eval/test/correct"], constant) + 0.4
    assert found[-1]["eval/no_tool/correct"] <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(98)
def test_it_learns_on_another_seed(tmp_path: Path) -> None:
    main(parse(Config, [f"log_path={tmp_path}/run", "seed=1"]))
    found = rows(tmp_path / "run")
    assert found[-1]["eval/test/correct"] > found[0]["eval/test/correct"] + 0.4
    assert found[-1]["eval/test/retrieved"] > found[0]["eval/test/retrieved"]
