"""Rows of preference data in every published shape, and what is said of rows that are none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinsmith.cookbook.datasets import sorted_letters
from tinsmith.cookbook.preference import Comparison, load_comparisons, read_comparison
from tinsmith.cookbook.preference.baselines import length_accuracy
from tinsmith.types.errors import UserError

USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green, and always was."}
EXPECTED = Comparison([USER], [BLUE], [GREEN])
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}

TRL_SHAPES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": USER["content"], "chosen": " It is blue.", "rejected": " It is green, and always was."},
    "conversations": {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    "implicit prompt": {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    "a null prompt, as tables have it": {"prompt": None, "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    "prompt said twice": {"prompt": USER["content"], "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
}
# A row of each data set, with the columns that it is published with.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Anthropic/hh-rlhf": {
        "chosen": "\n\nHuman: What color is the sky?\n\nAssistant: It is blue.",
        "rejected": "\n\nHuman: What color is the sky?\n\nAssistant: It is green, and always was.",
    },
    "nvidia/HelpSteer3": {
        "domain": "general",
        "language": "english",
        "context": [USER],
        "response1": GREEN["content"],
        "response2": BLUE["content"],
        "overall_preference": 2,
        "individual_preference": [
            {"score": 2, "reasoning": "@Response 1 is wrong.", "feedback_1": "", "feedback_2": ""}
        ],
    },
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": USER["content"],
        "prompt_id": "f0e3",
        "chosen": [USER, BLUE],
        "rejected": [USER, GREEN],
        "messages": [USER, BLUE],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
    "argilla/ultrafeedback-binarized-preferences": {
        "source": "sharegpt",
        "instruction": USER["content"],
        "chosen_response": BLUE["content"],
        "rejected_response": GREEN["content"],
        "chosen_avg_rating": 4.5,
        "rejected_avg_rating": 2.0,
        "chosen_model": "a",
    },
}


@pytest.mark.row(92)
@pytest.mark.parametrize("row", [*TRL_SHAPES.values(), *PUBLISHED.values()], ids=[*TRL_SHAPES, *PUBLISHED])
def test_every_shape_says_the_same_comparison(row: dict[str, Any]) -> None:
    assert read_comparison(row) == EXPECTED


@pytest.mark.row(92)
@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_of_the_published_shapes(row: dict[str, Any], kind: str, tmp_path: Path) -> None:
    # Each row asks about another sky, so that no prompt is on both sides.
    rows = [json.loads(json.dumps(row).replace("the sky", f"sky number {i}")) for i in range(4)]
    path = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = load_comparisons(str(path), held_out=1)
    assert (len(found.train), len(found.test)) == (3, 1)
    prompts = {read_comparison(each).prompt[0]["content"] for each in [*found.train, *found.test]}
    assert prompts == {f"What color is sky number {i}?" for i in range(4)}


@pytest.mark.row(92)
def test_a_table_of_texts_and_what_is_no_table_of_comparisons(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "chosen", "rejected"], ["1+1", "2", "3"], ["1+2", "3", "4"]])
    assert len(load_comparisons(str(path), held_out=1).train) == 1
    path.write_text("prompt,completion\n1+1,2\n")
    with pytest.raises(UserError, match=r'columns: got .prompt, completion., expected "chosen" and "rejected"'):
        load_comparisons(str(path))


@pytest.mark.row(92)
def test_texts_with_an_implicit_prompt_are_cut_at_a_word() -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    assert read_comparison(row) == Comparison(
        [{"role": "user", "content": "The sky is"}],
        [{"role": "assistant", "content": "blue."}],
        [{"role": "assistant", "content": "black."}],
    )


@pytest.mark.row(92)
def test_tools_and_turns_after_the_first_belong_to_an_answer() -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": "{}"}}],
    }
    result = {"role": "tool", "content": "blue"}
    row = {"prompt": [USER], "chosen": [call, result, BLUE], "rejected": [GREEN], "tools": json.dumps([TOOL])}
    found = read_comparison(row)
    assert (len(found.chosen), found.tools) == (3, (TOOL,))


@pytest.mark.row(92)
def test_a_tie_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = PUBLISHED["nvidia/HelpSteer3"]
    rows = [{**row, "context": [{**USER, "content": f"number {i}"}], "overall_preference": i % 3 - 1} for i in range(6)]
    path = tmp_path / "helpsteer3.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    found = load_comparisons(str(path), held_out=1)
    assert len(found.train) + len(found.test) == 4
    assert "2 of 6 rows prefer neither answer" in caplog.text
    chosen = {read_comparison(each).prompt[0]["content"]: read_comparison(each).chosen for each in found.train}
    # -1 is for the first response, 1 for the second.
    assert all(said == ([GREEN] if int(prompt[-1]) % 3 == 0 else [BLUE]) for prompt, said in chosen.items())


BAD: dict[str, tuple[Any, str]] = {
    "equal": ({"prompt": "1+1", "chosen": "2", "rejected": " 2"}, "rejected: got '2', expected another answer"),
    "empty": ({"prompt": "1+1", "chosen": "", "rejected": "2"}, "chosen: got '', expected a text that is not empty"),
    "empty prompt": ({"prompt": " ", "chosen": "1", "rejected": "2"}, "prompt: got ' ', expected a text"),
    "empty message": (
        {"prompt": [USER], "chosen": [BLUE], "rejected": [{**GREEN, "content": " "}]},
        r"rejected\[0\].content: got ' ', expected an answer that is not empty",
    ),
    "other prompts": (
        {"chosen": [USER, BLUE], "rejected": [{**USER, "content": "And the sea?"}, GREEN]},
        "expected a conversation that begins as chosen does",
    ),
    "other prompts beside one": (
        {"prompt": "1+1", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        "expected an answer to the row's prompt",
    ),
    "other texts": ({"chosen": "blue", "rejected": "green"}, "their common prompt"),
    "two kinds": ({"prompt": "1+1", "chosen": "2", "rejected": [GREEN]}, "expected a text as chosen"),
    "an answer of the user": (
        {"prompt": [USER], "chosen": [{**BLUE, "role": "system"}], "rejected": [GREEN]},
        "expected an answer of the assistant",
    ),
    "no comparison": ({"prompt": "1+1", "completion": "2"}, 'got .*, expected "chosen" and "rejected"'),
    "no object": ("1+1", "row: got '1.1', expected an object"),
    "a preference that is none": (
        {**PUBLISHED["nvidia/HelpSteer3"], "overall_preference": 5},
        "overall_preference: got 5, expected a number from -3",
    ),
    "hhh without an answer": (
        {"chosen": "\n\nHuman: hi", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        'expected a text whose last turn begins with "Assistant:"',
    ),
    "tools that are no JSON": ({"prompt": "1", "chosen": "2", "rejected": "3", "tools": "["}, "tools: got .*JSON"),
}


@pytest.mark.row(92)
@pytest.mark.parametrize(("row", "said"), BAD.values(), ids=BAD)
def test_what_is_no_comparison_is_named(row: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_comparison(row)


@pytest.mark.row(92)
def test_a_bad_row_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"prompt": "1+1", "chosen": "2", "rejected": "3"}\n{"prompt": "1", "chosen": "2", "rejected": "2"}\n'
    )
    with pytest.raises(UserError, match=r"pairs.jsonl, line 2: rejected: got '2', expected another answer than chosen"):
        load_comparisons(str(path))


def test_a_prompt_that_is_asked_is_never_learned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"{i % 3}+1", "chosen": str(i), "rejected": "no"} for i in range(9)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_comparisons(str(path), held_out=1)
    asked = {row["prompt"] for row in found.test}
    assert len(found.train) == 6
    assert not asked & {row["prompt"] for row in found.train}
    assert "have a prompt that is held out" in caplog.text
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="test: got '9 rows', expected other prompts"):
        load_comparisons(str(path), str(test))


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'ultrafeedback'"):
        load_comparisons("ultrafedback")
    with pytest.raises(UserError, match=r"data: got '.*none.jsonl', expected a file of comparisons"):
        load_comparisons(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="held_out: got 0, expected"):
        load_comparisons(held_out=0)


@pytest.mark.row(92, 93)
def test_the_set_that_ships_says_nothing_to_who_does_not_read_it() -> None:
    found = load_comparisons(seed=3)
    assert (len(found.train), len(found.test)) == (2560, 200)
    for row in [*found.train, *found.test]:
        assert sorted_letters.quality(row["word"], row["chosen"]) == 1.0
        assert sorted_letters.quality(row["word"], row["rejected"]) == 0.0
    assert abs(length_accuracy(list(found.train)) - 0.5) < 0.03
    assert not {row["word"] for row in found.train} & {row["word"] for row in found.test}
    # Nor does a letter: none is on the side of the chosen much more often than on the other.
    for letter in "aeinst":
        better = [(letter in row["chosen"]) - (letter in row["rejected"]) for row in found.train]
        assert abs(sum(better)) < 0.06 * len(better)
    assert [*load_comparisons(seed=3).test] == [*found.test]
    assert [*load_comparisons(seed=4).test] != [*found.test]


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (
            {"input": {"messages": [USER]}, "preferred_output": [BLUE], "non_preferred_output": [GREEN]},
            [USER],
        ),
        (
            {
                "conversations": [{"from": "human", "value": USER["content"]}],
                "chosen": {"from": "gpt", "value": BLUE["content"]},
                "rejected": {"from": "gpt", "value": GREEN["content"]},
                "system": "Be brief.",
            },
            [SYSTEM, USER],
        ),
        (
            {"instruction": USER["content"], "input": "", "chosen": BLUE["content"], "rejected": GREEN["content"]},
            [USER],
        ),
        ({**TRL_SHAPES["texts"], "system": "Be brief."}, [SYSTEM, USER]),
        ({**TRL_SHAPES["conversations"], "system_prompt": "Be brief."}, [SYSTEM, USER]),
        ({**TRL_SHAPES["implicit prompt"], "system": "Be brief."}, [SYSTEM, USER]),
        ({"chosen": [USER, {**BLUE, "weight": 1}], "rejected": [{**USER, "weight": 0}, GREEN]}, [USER]),
    ],
)
def test_comparisons_of_other_formats_say_the_same(row: dict[str, Any], prompt: list[dict[str, Any]]) -> None:
    found = read_comparison(row)
    said = [[{key: m[key] for key in ("role", "content")} for m in part] for part in found[:3]]
    assert said == [prompt, [BLUE], [GREEN]]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"margin": 2.0}, "margin: got 2.0, expected none: how much better an answer is changes nothing here"),
        ({"weight": 0.5}, "weight: got 0.5, expected none: messages have a weight"),
        ({"images": ["x"]}, "images: got ['x'], expected none: models here read texts alone"),
        ({"messages": [USER, GREEN]}, "messages: got"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs: got"),
        ({"chosen": [{**BLUE, "weight": 0}]}, "chosen: weight of message 1: got 0, expected none: both answers are"),
        ({"prompt": [{**USER, "train": True}]}, "chosen: weight of message 0: got 1, expected none: both answers are"),
        ({"chosen": [{**BLUE, "audio": {"id": 1}}]}, "chosen[0].audio: got"),
    ],
)
def test_what_a_comparison_cannot_honour_is_refused_by_name(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        read_comparison({**TRL_SHAPES["conversations"], **more})
    assert str(error.value).startswith(expected)


def test_calls_in_comparisons_have_objects_for_arguments_and_unused_keys_are_told(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": '{"a": 1}'}}
    row = {"prompt": [USER], "chosen": [call], "rejected": [GREEN], "functions": [TOOL["function"]], "score_chosen": 9}
    found = read_comparison(row)
    assert found.chosen[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert found.tools == (TOOL,)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({**row, "prompt": f"{n}?"}) + "\n" for n in range(4)) + "{}\n")
    with pytest.raises(UserError, match=r"line 5: row: got \[\], expected .*skip_bad_rows=true leaves the row out"):
        load_comparisons(str(path), held_out=1)
    kept = load_comparisons(str(path), held_out=1, skip_bad_rows=True)
    assert kept.train.remarks() == {"keys not used": "score_chosen", "bad rows left out": "1 of 5"}
