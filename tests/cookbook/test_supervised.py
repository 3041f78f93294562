"""Rows to datums: files, shifting, truncation, losses."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cookbook.formats import byte_tokenizer
from tests.support.checkpoints import make_tokenizer
from tinsmith import get_tokenizer
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import (
    JsonlRows,
    compute_mean_nll,
    conversation_to_datum,
    datum_from_tokens_weights,
    load_rows,
    row_to_datum,
    text_to_datum,
)
from tinsmith.cookbook.supervised.sources import HubRows
from tinsmith.types.errors import UserError
from tinsmith.types.tensor import TensorData

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.row(34, 59)
def test_a_conversation_becomes_a_shifted_datum() -> None:
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    tokens, weights = renderer.build_supervised_example([QUESTION, ANSWER])
    datum = conversation_to_datum([QUESTION, ANSWER], renderer, max_length=None)
    assert datum.model_input.to_ints() == tokens[:-1]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == tokens[1:]
    assert datum.loss_fn_inputs["weights"].tolist() == weights[1:]
    assert sum(weights) == 2  # "4" and the end marker


@pytest.mark.row(118)
def test_long_conversations_are_cut_and_said_so_once(caplog: pytest.LogCaptureFixture) -> None:
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    long = [QUESTION, {"role": "assistant", "content": "4" * 50}]
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        for _ in range(3):
            datum = conversation_to_datum(long, renderer, 40, "last_assistant_message")
            assert datum.model_input.length == 39
    assert [r.message.split(";")[0] for r in caplog.records] == [
        "max_length: an example of 78 tokens was cut to 40",
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        conversation_to_datum(long, renderer, 10)
        conversation_to_datum(long, renderer, 9)
    assert sum("weight 0 everywhere" in r.message for r in caplog.records) == 1


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="weights: got '1 values', expected 2, one per token"):
        datum_from_tokens_weights([1, 2], [1.0])
    with pytest.raises(UserError, match="max_length: got 1, expected at least 2"):
        datum_from_tokens_weights([1, 2], [1.0, 1.0], 1)
    with pytest.raises(UserError, match="at least two tokens"):
        datum_from_tokens_weights([1], [1.0])


@pytest.mark.row(8)
def test_raw_text_is_learned_whole_after_the_tokenizers_beginning() -> None:
    tokenizer = make_tokenizer("llama")
    datum = text_to_datum("hi <|eot_id|>", tokenizer)
    tokens = [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].tolist()[-1]]
    assert tokenizer.decode(tokens) == "hi <|eot_id|>"
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") not in tokens
    assert set(datum.loss_fn_inputs["weights"].tolist()) == {1.0}
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    assert text_to_datum("hi", tokenizer).model_input.to_ints() == [
        bos,
        *tokenizer.encode("h", add_special_tokens=False),
    ]


@pytest.mark.row(62)
def test_nll_is_the_weighted_mean_and_ignores_what_has_no_weight() -> None:
    logprobs = [np.array([-1.0, -2.0, -math.inf]), TensorData.from_numpy(np.array([-4.0], dtype=np.float32))]
    weights = [np.array([1.0, 0.5, 0.0]), np.array([2.0])]
    assert compute_mean_nll(logprobs, weights) == pytest.approx((1 + 1 + 8) / 3.5)
    assert math.isnan(compute_mean_nll([np.array([-1.0])], [np.array([0.0])]))


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
    lengths = [row_to_datum(row, renderer, tokenizer).model_input.length for row in data]
    assert lengths == [28, 8, 28]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes at character 2)"),
        ("[1]", 'row: got [1], expected an object with "messages" or "text"'),
        ({"prompt": "x"}, 'row: got [\'prompt\'], expected either "messages" or "text"'),
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
        load_rows(str(path), renderer=get_renderer("tinsmith_tiny", tokenizer))
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


@pytest.mark.row(58)
def test_a_hub_data_set_that_cannot_be_had_gives_pig_latin_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        rows = load_rows("HuggingFaceH4/no_robots")
    assert rows[0]["messages"][0]["content"].startswith("translate: ")
    assert "'HuggingFaceH4/no_robots' cannot be had from the hub" in caplog.text


@pytest.mark.row(58, 65)
def test_hub_rows_are_checked_as_they_are_read() -> None:
    good = {"messages": [QUESTION, ANSWER], "category": "Closed QA"}
    rows = HubRows("someone/something", [good, {"messages": [QUESTION]}])
    assert (len(rows), rows[0], rows[0:1]) == (2, good, [good])
    with pytest.raises(UserError, match="someone/something, row 1: messages: got 'roles user'"):
        list(rows)


def test_sources_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "hi"})
    assert list(load_rows(str(path))) == [{"text": "hi"}]
    with pytest.raises(UserError, match=r"got 'nowhere/data.jsonl', expected a JSONL file"):
        load_rows("nowhere/data.jsonl")
    assert load_rows(None, seed=3) == load_rows(None, seed=3) != load_rows(None, seed=4)
