"""Sampled tokens read back: text, thinking, calls of tools and what only looks like one, and why a turn ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.families import (
    LLAMA31,
    QWEN3,
    QWEN3_INSTRUCT,
    QWEN25,
    TINY,
    Format,
    by_format,
    by_own_format,
    quick,
)
from tests.cookbook.renderers.formats import byte_tokenizer
from tinsmith.cookbook.renderers import TurnEnd, get_renderer

QUESTION = {"role": "user", "content": "Q"}


@by_format
def test_a_sampled_turn_parses_to_the_message_it_was_rendered_from(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer(merges=False)

    @quick
    @given(fmt.conversations())
    def check(messages: list[dict[str, Any]]) -> None:
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            # A text of arguments is quoted by some templates, and then no object any more.
            plain = [m | {"tool_calls": parsed_calls(m)} if "tool_calls" in m else m for m in messages[: index + 1]]
            tokens, weights = renderer.build_supervised_example(plain, "last_assistant_message")
            said = [t for t, w in zip(tokens, weights, strict=True) if w]
            parsed = renderer.parse_response(said)
            assert parsed.end is not TurnEnd.CUT_OFF
            assert str(parsed.message["content"]).strip() == message["content"].strip()
            thought = message.get("reasoning_content") or ""
            assert (parsed.message.get("reasoning_content") or "").strip("\n") == thought.strip("\n")
            assert "unparsed_tool_calls" not in parsed.message
            assert renderer.parse_response(said[:-1]).end is TurnEnd.CUT_OFF
            if fmt.calls:
                assert parsed.message.get("tool_calls", []) == parsed_calls(message)

    check()


def parsed_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message's calls with their arguments as objects."""
    calls: list[dict[str, Any]] = []
    for call in message.get("tool_calls", []):
        function = call["function"]
        arguments = function["arguments"]
        calls.append(
            {
                "type": "function",
                "function": {
                    "name": function["name"],
                    "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments,
                },
            }
        )
    return calls


@by_own_format
def test_whatever_is_sampled_parses(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)
    pieces = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "<|eom_id|>",
        "[" * 20_000,
        "\\ud8",
    ]
    pieces += ['{"name": "f", "arguments": {}}', '{"name": "f", "parameters": {}}', "f.call(", 'a="b"', "\n", "🙂", "{"]

    @quick
    @given(st.lists(st.one_of(st.sampled_from(pieces), st.integers(0, len(tokenizer) - 1)), max_size=8))
    def check(drawn: list[str | int]) -> None:
        tokens: list[int] = []
        for item in drawn:
            tokens += [item] if isinstance(item, int) else tokenizer.encode(item, add_special_tokens=False)
        message = renderer.parse_response(tokens).message
        assert message["tokens"] == tokens
        assert isinstance(message["content"], str)
        example = renderer.build_supervised_example([QUESTION, message])
        begun = renderer.build_generation_prompt([QUESTION]).to_ints() + tokens
        assert example.tokens[: len(begun)] == begun
        assert [t for t, w in zip(*example, strict=True) if w] == tokens

    check()


CHATML = [QWEN25, QWEN3, QWEN3_INSTRUCT, TINY]


@pytest.mark.parametrize("fmt", CHATML, ids=str)
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("<tool_call>{</tool_call>", "not JSON (Expecting property name enclosed in double quotes at character 2)"),
        ("<tool_call>[1]</tool_call>", "not an object"),
        ('<tool_call>{"arguments": {}}</tool_call>', "no name of a function"),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "arguments: not an object"),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>',
            "half of a surrogate pair stands alone",
        ),
        ('<tool_call>{"name": "f", "argum', "the call was cut off"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON that can be read"),
    ],
)
def test_what_only_looks_like_a_call_is_kept_with_the_reason(fmt: Format, said: str, reason: str) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)
    good = '<tool_call>{"name": "g", "arguments": {"x": 1}}</tool_call>'
    message = renderer.parse_response(tokenizer.encode(f"Look{good}{said}", add_special_tokens=False)).message
    assert message["content"] == "Look"
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["g"]
    (unparsed,) = message["unparsed_tool_calls"]
    assert unparsed["text"] == said
    assert unparsed["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("said", "name", "arguments", "end"),
    [
        ('{"name": "f", "parameters": {"a": [1]}}<|eot_id|>', "f", {"a": [1]}, TurnEnd.MARKER),
        ('{"name": "f", "parameters": {}}<|eom_id|>', "f", {}, TurnEnd.TOOL_MARKER),
        ('<|python_tag|>{"name": "f", "parameters": {}}<|eom_id|>', "f", {}, TurnEnd.TOOL_MARKER),
        (
            '<|python_tag|>brave_search.call(query="a, b", k="x=\\"1\\"")<|eom_id|>',
            "brave_search",
            {"query": "a, b", "k": 'x=\\"1\\"'},
            TurnEnd.TOOL_MARKER,
        ),
        ("<|python_tag|>print(2)<|eom_id|>", "code_interpreter", {"code": "print(2)"}, TurnEnd.TOOL_MARKER),
        ("<|python_tag|>f.call()", "f", {}, TurnEnd.CUT_OFF),
    ],
)
def test_calls_of_llama(said: str, name: str, arguments: dict[str, Any], end: TurnEnd) -> None:
    tokenizer = LLAMA31.tokenizer(merges=False)
    renderer = get_renderer("llama3_1", tokenizer, builtin_tools=["brave_search", "code_interpreter"])
    parsed = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False))
    assert parsed.end is end
    assert parsed.message["content"] == ""
    assert parsed.message["tool_calls"] == [{"type": "function", "function": {"name": name, "arguments": arguments}}]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('{"name": "f", "parameters": 3}', "parameters: not an object"),
        ('{"name": "f", "parameters": {', "not JSON"),
        ("<|python_tag|>print(2)", "neither"),
    ],
)
def test_calls_of_llama_that_are_none(said: str, reason: str) -> None:
    renderer, tokenizer = LLAMA31.renderer_and_tokenizer(merges=False)
    message = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False)).message
    (unparsed,) = message["unparsed_tool_calls"]
    assert unparsed["text"] == said
    assert unparsed["reason"].startswith(reason)


def test_json_that_is_no_call_is_an_answer() -> None:
    renderer, tokenizer = LLAMA31.renderer_and_tokenizer(merges=False)
    for said in ('{"name": "Ann", "age": 3}', '{"a": 1}', "print(2)"):
        message = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False)).message
        assert (message["content"], "tool_calls" in message, "unparsed_tool_calls" in message) == (said, False, False)


@pytest.mark.parametrize(
    ("said", "thinking", "content", "end"),
    [
        ("<think>\nhm\n</think>\n\nyes<|im_end|>", "hm", "yes", TurnEnd.MARKER),
        ("<think>\n\n</think>\n\nyes<|im_end|>", None, "yes", TurnEnd.MARKER),
        ("hm\n</think>\n\nyes", "hm", "yes", TurnEnd.CUT_OFF),
        ("<think>\nhm", "hm", "", TurnEnd.CUT_OFF),
        ("yes", None, "yes", TurnEnd.CUT_OFF),
    ],
)
def test_thinking_of_qwen(said: str, thinking: str | None, content: str, end: TurnEnd) -> None:
    renderer, tokenizer = QWEN3.renderer_and_tokenizer(merges=False)
    message, ended = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False))
    assert (message.get("reasoning_content"), message["content"], ended) == (thinking, content, end)


def test_marks_that_are_spelled_in_letters_are_text() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    spelled = "<think>a</think><tool_call>{}</tool_call>"
    letters = [t for c in spelled for t in tokenizer.encode(c, add_special_tokens=False)]
    message = renderer.parse_response(letters).message
    assert (message["content"], message.get("reasoning_content"), message.get("tool_calls")) == (spelled, None, None)
