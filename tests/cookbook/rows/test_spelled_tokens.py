"""Control tokens that rows spell: told with row and token, read as tokens only where that is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.renderers.formats import byte_tokenizer
from tinsmith import get_tokenizer
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.renderers.encoding import fast_tokenizer
from tinsmith.cookbook.supervised import load_rows, row_to_datums
from tinsmith.types.errors import UserError

TOKENIZER = get_tokenizer("tinsmith-tiny")
RENDERER = get_renderer("tinsmith_tiny", TOKENIZER)
USER, END = (TOKENIZER.convert_tokens_to_ids(token) for token in ("<|user|>", "<|end|>"))
Q = {"role": "user", "content": "hi"}


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Any:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(str(path), 0, options.pop("renderer", RENDERER), **options)


def ids(row: dict[str, Any]) -> list[int]:
    (datum,) = row_to_datums(row, RENDERER, TOKENIZER)
    return [*datum.model_input.to_ints(), int(datum.loss_fn_inputs["target_tokens"].tolist()[-1])]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(notices, "_said", set())
    caplog.set_level(logging.WARNING, "tinsmith.cookbook")
    return caplog


@pytest.mark.row(8)
def test_a_spelled_control_token_is_told_with_row_and_token(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    spelled = "<|user|>hi<|end|>"
    found = load(tmp_path, {"text": "a < b"}, {"text": spelled}, {"text": spelled})
    path = tmp_path / "data.jsonl"
    assert told.messages == [
        f"data: 2 rows of {path} with a control token of the model as text; the first, {path}, line 2: text has "
        "'<|user|>', which is learned as text; text_control_tokens=true reads it as the token"
    ]
    assert USER not in ids(found[1])
    assert TOKENIZER.decode(ids(found[1])) == spelled


def test_a_spelled_control_token_of_a_message_is_told(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    load(tmp_path, {"prompt": "hi", "completion": "yo<|end|>"})
    assert len(told.messages) == 1
    assert "line 1: messages[1].content has '<|end|>', which is learned as text: in a" in told.text


def test_marks_of_thinking_in_an_answer_are_those_of_the_renderer(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    renderer = get_renderer("qwen3", byte_tokenizer("qwen3", "qwen3"))
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyo"}
    load(tmp_path, {"messages": [Q, answer]}, renderer=renderer)
    assert not told.messages
    load(tmp_path, {"messages": [{**Q, "content": "what is <think>?"}, answer]}, renderer=renderer)
    assert "messages[0].content has '<think>'" in told.text


@pytest.mark.row(8)
def test_control_tokens_are_read_where_that_is_asked_for(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    spelled = "<|user|>hi<|end|>"
    (found,) = load(tmp_path, {"text": spelled}, text_control_tokens=True)
    assert not told.messages
    assert ids(found) == [USER, *ids({"text": "hi"}), END]
    # A row says it for itself, and against the setting.
    assert ids({"text": spelled, "text_control_tokens": True}) == ids(found)
    (found,) = load(tmp_path, {"text": spelled, "text_control_tokens": False}, text_control_tokens=True)
    assert USER not in ids(found)
    with pytest.raises(UserError, match="text_control_tokens: got 'yes', expected true or false"):
        load(tmp_path, {"text": spelled, "text_control_tokens": "yes"})


@pytest.mark.row(8)
def test_a_text_ends_with_the_end_token_where_that_is_asked_for(tmp_path: Path) -> None:
    (plain,) = load(tmp_path, {"text": "once upon"})
    (ended,) = load(tmp_path, {"text": "once upon"}, text_eos=True)
    assert ids(ended) == [*ids(plain), TOKENIZER.eos_token_id]
    # One is enough, whoever wrote it.
    (twice,) = load(tmp_path, {"text": f"once upon{TOKENIZER.eos_token}"}, text_eos=True, text_control_tokens=True)
    assert ids(twice) == ids(ended)
    # A bare tokenizer has no names for its tokens.
    nameless = get_renderer("role_colon", fast_tokenizer(TOKENIZER))
    with pytest.raises(UserError, match="text_eos: got True, expected false: the tokenizer names no eos_token"):
        load(tmp_path, {"text": "a"}, text_eos=True, renderer=nameless)
