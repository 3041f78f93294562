"""JSONL files: what they may hold, and how a bad line is named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cookbook.renderers.formats import byte_tokenizer
from tests.support.examples import examples
from tinsmith import get_tokenizer
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import JsonlRows, check_row, load_rows, row_to_datums
from tinsmith.types.errors import UserError

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.row(8)
def test_a_file_of_conversations_and_texts(tmp_path: Path) -> None:
    rows = [
        {"messages": [QUESTION, ANSWER], "category": "sums"},
        {"text": "once upon"},
        {"messages": [QUESTION, ANSWER]},
    ]
    path = write(tmp_path, rows[0], "", rows[1], rows[2])
    data = JsonlRows(path)
    assert len(data) == 3
    assert list(data) == rows
    assert data[1] == rows[1]
    assert data[-1] == rows[2]
    assert data[0:2] == rows[:2]
    tokenizer = byte_tokenizer("llama", "llama3")
    renderer = get_renderer("llama3", tokenizer)
    lengths = [datum.model_input.length for row in data for datum in row_to_datums(row, renderer, tokenizer)]
    assert lengths == [28, 8, 28]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "x", "response": "y"}, '(write "response" as "completion")'),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, '(write "chosen" as "completion" to learn it'),
    ],
)
def test_of_rows_in_another_format_the_message_says_what_to_write(
    row: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=re.escape(f'expected either "messages", "text", or "prompt" and "completion" {expected}')
    ):
        JsonlRows(write(tmp_path, row))


def test_nulls_are_fields_that_a_row_does_not_have_and_a_tool_may_say_nothing(tmp_path: Path) -> None:
    nulls = {"text": None, "prompt": None, "completion": None, "tools": None, "score": None}
    call = {"type": "function", "function": {"name": "touch", "arguments": "{}"}}
    messages = [
        QUESTION | {"tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": ""},
        ANSWER,
    ]
    said = {"content": None, "tool_calls": [{"type": "function", "function": {"name": "touch", "arguments": {}}}]}
    without_nulls = [QUESTION, {"role": "assistant", **said}, {"role": "tool", "content": ""}, ANSWER]
    rows = JsonlRows(write(tmp_path, nulls | {"messages": messages}, nulls | {"text": "once", "messages": None}))
    assert list(rows) == [
        {"messages": without_nulls, "tools": None, "score": None},
        {"text": "once", "tools": None, "score": None},
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes at character 2)"),
        ("[1]", "a list, expected one row a line (jq -c '.[]' makes a list such lines)"),
        ("1", 'row: got 1, expected an object with either "messages", "text", or "prompt"'),
        ({"messages": None}, "messages: got None, expected a list of messages"),
        ({"prompt": "x", "completion": None}, "completion: got None, expected a text, or a list of messages"),
        ({"prompt": "x"}, 'row: got [\'prompt\'], expected either "messages", "text", or "prompt" and'),
        ({"messages": "hi"}, "messages: got 'hi', expected a list of messages"),
        ({"messages": []}, "messages: got [], expected at least one message"),
        ({"messages": [QUESTION, {"role": "bot", "content": "x"}]}, "messages[1].role: got 'bot', expected one of"),
        ({"messages": [QUESTION]}, "messages: got 'roles user', expected at least one message of the assistant"),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": " "}]},
            "messages[1].content: got ' ', expected content",
        ),
        ({"messages": [QUESTION, {"role": "assistant"}]}, "messages[1].content: got None, expected a string"),
        ("[" * 100_000, "not a row (nested too deeply)"),
        ('{"text": "half \\ud800"}', "not text (half of a surrogate pair"),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": "x", "tool_calls": 3}]},
            "messages[1].tool_calls: got 3, expected a list of calls",
        ),
        ({"text": ""}, "text: got '', expected a text that is not empty"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: Any, expected: str) -> None:
    path = write(tmp_path, {"messages": [QUESTION, ANSWER]}, "", line)
    with pytest.raises(UserError) as error:
        JsonlRows(path)
    assert str(error.value).startswith(f"{path}, line 3: {expected}")


def test_a_line_that_the_format_cannot_say_is_named_when_the_file_is_opened(tmp_path: Path) -> None:
    tokenizer = get_tokenizer("tinsmith-tiny")
    path = write(
        tmp_path, {"messages": [QUESTION, ANSWER]}, {"messages": [QUESTION, ANSWER, {"role": "tool", "content": "7"}]}
    )
    with pytest.raises(UserError, match=r"line 2: messages\[2\].role: got 'tool', expected no tools"):
        load_rows(str(path), renderer=get_renderer("role_colon", tokenizer))
    assert len(load_rows(str(path), renderer=get_renderer("chat_template", tokenizer))) == 2


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.jsonl', expected a JSONL file that can be read \(No such file"):
        JsonlRows(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="with at least one row"):
        JsonlRows(write(tmp_path, ""))
    path = tmp_path / "latin1.jsonl"
    path.write_bytes('{"text": "caf\xe9"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin1.jsonl, line 1: not UTF-8"):
        JsonlRows(path)


def test_json_that_only_python_writes_is_read_and_a_byte_order_mark_too(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "score": 1}\r\n{"text": "b", "score": NaN}\n')
    rows = JsonlRows(path)
    assert [row["text"] for row in rows] == ["a", "b"]
    assert math.isnan(rows[1]["score"])


def test_trainable_flags_are_checked_when_the_file_is_opened(tmp_path: Path) -> None:
    flagged = [{**QUESTION, "trainable": False}, {**ANSWER, "trainable": True}]
    path = write(tmp_path, {"messages": flagged}, {"messages": [*flagged, QUESTION, ANSWER]})
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    with pytest.raises(UserError, match=r"line 2: messages\[2\].trainable: got None, expected true or false"):
        load_rows(str(path), 0, renderer, "customized")
    with pytest.raises(UserError, match=r"line 1: messages\[0\].trainable: got False, expected none"):
        load_rows(str(path), 0, renderer, "all_assistant_messages")
    assert len(load_rows(str(path))) == 2  # type: ignore[arg-type]


def test_tools_of_a_row_are_checked_and_rendered(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    row = {"messages": [QUESTION, call, {"role": "tool", "content": "4"}, ANSWER], "tools": [tool]}
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3_instruct", tokenizer)
    (found,) = load_rows(str(write(tmp_path, row)), 0, renderer)  # type: ignore[misc]
    (datum,) = row_to_datums(found, renderer, tokenizer)
    expected = renderer.build_supervised_example(row["messages"], tools=[tool])
    assert datum.model_input.to_ints() == expected.tokens[:-1]
    assert '"name": "add"' in tokenizer.decode(expected.tokens)
    with pytest.raises(UserError, match=r"line 1: tools\[0\].function.name: got None, expected the name"):
        load_rows(str(write(tmp_path, {**row, "tools": [{"type": "function", "function": {}}]})), 0, renderer)


@pytest.mark.parametrize(
    ("row", "what", "learned"),
    [
        ({"prompt": "2+2?", "completion": "4"}, "all_assistant_messages", ["4"]),
        ({"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]}, "all_assistant_messages", ["4"]),
        ({"prompt": "2+2?", "completion": [ANSWER, QUESTION, ANSWER]}, "all_assistant_messages", ["4", "4"]),
        ({"prompt": "2+2?", "completion": [ANSWER, QUESTION, ANSWER]}, "last_assistant_message", ["4"]),
    ],
)
def test_of_a_prompt_and_its_completion_only_the_completion_is_learned(
    row: dict[str, Any], what: str, learned: list[str]
) -> None:
    tokenizer = byte_tokenizer("llama", "llama3")
    renderer = get_renderer("llama3", tokenizer)
    (datum,) = row_to_datums(check_row(row, renderer, what), renderer, tokenizer, train_on_what=what)
    targets, weights = datum.loss_fn_inputs["target_tokens"].tolist(), datum.loss_fn_inputs["weights"].tolist()
    said = tokenizer.decode([token for token, weight in zip(targets, weights, strict=True) if weight])
    assert said == "".join(f"{text}<|eot_id|>" for text in learned)


@pytest.mark.parametrize(
    ("row", "what", "expected"),
    [
        ({"prompt": "x", "completion": " "}, None, "completion: got ' ', expected a text that is not empty"),
        ({"prompt": [], "completion": "x"}, None, "prompt: got [], expected a text, or a list of messages"),
        ({"prompt": "x", "completion": [QUESTION]}, None, "messages: got 'roles user, user', expected at least one"),
        ({"prompt": "x", "completion": "y"}, "all_tokens", "train_on_what: got 'all_tokens', expected one of all_ass"),
        (
            {"prompt": [QUESTION, ANSWER], "completion": [QUESTION]},
            "all_assistant_messages",
            "completion: got 'no message of the assistant', expected one to learn from",
        ),
        ({"messages": [ANSWER], "text": "x"}, None, "text: got 'x', expected none beside the conversation, which does"),
    ],
)
def test_rows_that_say_nothing_to_learn_are_refused(row: dict[str, Any], what: str | None, expected: str) -> None:
    with pytest.raises(UserError) as error:
        check_row(row, None, what)
    assert str(error.value).startswith(expected)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
json_rows = st.one_of(
    st.fixed_dictionaries({"text": texts}),
    st.fixed_dictionaries({"prompt": texts, "completion": texts, "n": st.integers() | st.none() | st.booleans()}),
    st.fixed_dictionaries({"messages": texts.map(lambda text: [QUESTION, {"role": "assistant", "content": text}])}),
)


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(json_rows, min_size=1, max_size=6),
    ascii_only=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]),
    data=st.data(),
)
def test_any_jsonl_is_read_as_it_was_written(
    tmp_path: Path, rows: list[Any], ascii_only: bool, line_end: str, data: st.DataObject
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(line_end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode())
    found = JsonlRows(path)
    assert list(found) == rows
    index = data.draw(st.integers(-len(rows), len(rows) - 1))
    assert found[index] == rows[index]
    with pytest.raises(IndexError):
        found[len(rows)]


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_whatever_bytes_a_file_holds_the_answer_is_rows_or_a_message_with_its_line(
    tmp_path: Path, lines: list[bytes]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "first"}', *lines]))
    try:
        assert JsonlRows(path)[0] == {"text": "first"}
    except UserError as error:
        name = re.escape(str(path))
        assert re.match(rf"{name}, line \d+: |{name}: \d of \d rows cannot be used:\n  line \d+: ", str(error))
