"""The tokenizer and chat template of the shipped checkpoint."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tinsmith import models
from tiny.tokenizer import CONTROL, ID, build_tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Finds.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"key": "é"}}}


@cache
def plain() -> Tokenizer:
    return Tokenizer.from_file(str(models.path() / "tokenizer.json"))


@cache
def auto() -> Any:
    return AutoTokenizer.from_pretrained(models.path())


def test_vocabulary_is_small() -> None:
    assert plain().get_vocab_size() == 256 + len(CONTROL) == len(auto()) == 280


def test_shipped_file_is_what_the_script_builds() -> None:
    assert plain().to_str() == build_tokenizer().to_str()


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    ids = plain().encode(text).ids
    assert plain().decode(ids, skip_special_tokens=False) == text
    assert auto()(text).input_ids == ids
    assert auto().decode(ids) == text


@given(st.text())
def test_ids_of_plain_text_are_its_bytes(text: str) -> None:
    if not any(token in text for token in CONTROL):
        assert plain().encode(text).ids == list(text.encode())


def test_control_tokens_are_one_id_each_and_stay_where_they_are() -> None:
    # Other files (weights, adapters, rendered data) depend on these numbers.
    assert [plain().token_to_id(token) for token in CONTROL] == list(range(256, 280))
    assert ID["<|endoftext|>"] == 256
    assert ID["<|end|>"] == 257
    assert ID["<|assistant|>"] == 260


def test_skipping_special_tokens_keeps_what_the_model_said() -> None:
    ids = plain().encode("<|assistant|><think>a</think><tool_call>{}</tool_call><|end|>").ids
    assert plain().decode(ids) == "<think>a</think><tool_call>{}</tool_call>"


def test_template_of_a_conversation() -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ellohay"}]
    text = auto().apply_chat_template(messages, tokenize=False)
    assert text == "<|user|>hello<|end|><|assistant|>ellohay<|end|>"
    prompt = auto().apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>hello<|end|><|assistant|>"
    assert text.startswith(prompt)


def test_template_of_tools_thinking_and_parts() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": " a"}, {"type": "text", "text": "b\n"}]},
        {"role": "assistant", "reasoning_content": "hm", "content": "x", "tool_calls": [CALL]},
        {"role": "tool", "content": "v"},
    ]
    tools = (
        'Tools:\n{"name": "lookup", "description": "Finds.", '
        '"parameters": {"type": "object", "properties": {"key": {"type": "string"}}}}'
    )
    rest = (
        "<|user|> ab\n<|end|><|assistant|><think>hm</think>x"
        '<tool_call>{"name": "lookup", "arguments": {"key": "é"}}</tool_call><|end|>'
        "<|tool|><tool_response>v</tool_response><|end|>"
    )
    with_system = auto().apply_chat_template(messages, tools=TOOLS, tokenize=False)
    assert with_system == f"<|system|>S\n{tools}<|end|>{rest}"
    assert auto().apply_chat_template(messages[1:], tools=TOOLS, tokenize=False) == f"<|system|>{tools}<|end|>{rest}"


def test_template_marks_assistant_content_and_its_end() -> None:
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "reasoning_content": "hm", "content": "c"},
    ]
    out = auto().apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    mine = [token for token, mark in zip(out["input_ids"], out["assistant_masks"], strict=True) if mark]
    assert auto().decode(mine) == "a<|end|><think>hm</think>c<|end|>"


def test_unknown_role_is_refused() -> None:
    with pytest.raises(Exception, match="role: got robot"):
        auto().apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)
