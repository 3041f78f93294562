"""DeepSeek, gpt-oss, Qwen 3.5 and Kimi K2 against their templates, over random conversations."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.cookbook.renderers import test_renderers_extension as extension
from tests.cookbook.renderers import test_renderers_parsing as parsing
from tests.cookbook.renderers.formats import hostile_text, plain_text
from tests.cookbook.renderers.newer_families import (
    CONTROLS,
    DEEPSEEK,
    DEEPSEEK_THINKS,
    DEEPSEEK_V31,
    GPT_OSS,
    KIMI,
    NEWER,
    QWEN35,
    QWEN35_OFF,
    NewerFormat,
    QwenFormat,
    json_schemas,
    with_arguments,
)
from tests.cookbook.renderers.test_renderers import innocent
from tests.cookbook.renderers.test_renderers_parsing import QUESTION
from tests.support.examples import examples
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.types.errors import UserError

by_family = pytest.mark.parametrize("fmt", NEWER, ids=str)
quick = examples(8)
_MARKS = sorted({mark for family in CONTROLS.values() for marks in family for mark in marks})
worst_text = st.lists(st.one_of(hostile_text, st.sampled_from(_MARKS)), max_size=5).map("".join)


def without_seams(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation in which no answer begins with white space, and no thinking is empty.

    The template's text merges such beginnings with the header, which ends the prompt when the answer is sampled.
    """
    changed: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "assistant":
            message = message | {"content": message["content"].lstrip()}
            if "reasoning_content" in message:
                message["reasoning_content"] = message["reasoning_content"].lstrip() or "hm"
        changed.append(message)
    return changed


@by_family
@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.row(46, 48)
def test_tokens_are_those_of_the_template(fmt: NewerFormat, merges: bool) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges)

    @quick
    @given(fmt.conversations(), fmt.tools())
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        if merges:
            messages = without_seams(messages)
            if fmt.thinking:
                thoughtful = [{"reasoning_content": "hm"} | m if m["role"] == "assistant" else m for m in messages]
                messages = fmt.allowed(thoughtful)
        example = renderer.build_supervised_example(messages, tools=tools)
        assert example.tokens == fmt.template_tokens(tokenizer, messages, False, tools)
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = renderer.build_generation_prompt(messages[:index], tools=tools).to_ints()
                assert prompt == fmt.template_tokens(tokenizer, messages[:index], True, tools)

    check()


@by_family
@pytest.mark.row(41, 49)
def test_what_is_learned_begins_behind_the_prompt_and_ends_with_the_example(fmt: NewerFormat) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()

    @quick
    @given(fmt.conversations(worst_text), fmt.tools(worst_text))
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        # A thought that is written into the text is one, and this prompt has none.
        assume(fmt is not QWEN35_OFF or "</think>" not in messages[-1]["content"])
        prompt = renderer.build_generation_prompt(messages[:-1], tools=tools).to_ints()
        tokens, weights = renderer.build_supervised_example(messages, "last_assistant_message", tools=tools)
        assert tokens[: len(prompt)] == prompt
        said = tokens[len(prompt) :]
        end = max(i for i, token in enumerate(said) if token in renderer.get_stop_sequences()) + 1
        assert weights == [0.0] * len(prompt) + [1.0] * end + [0.0] * (len(said) - end)

    check()


@by_family
@pytest.mark.row(48)
def test_text_that_looks_like_control_tokens_stays_text(fmt: NewerFormat) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    thought = {tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "</think>")}
    controls = set(tokenizer.added_tokens_decoder) - thought

    @quick
    @given(fmt.conversations(worst_text), fmt.tools(worst_text))
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        tokens = renderer.build_supervised_example(messages, tools=tools).tokens
        assert tokenizer.decode(tokens) == tokenizer.decode(fmt.template_tokens(tokenizer, messages, False, tools))
        expected = renderer.build_supervised_example(innocent(messages), tools=innocent(tools)).tokens
        assert [t for t in tokens if t in controls] == [t for t in expected if t in controls]

    check()


KEEPING = [
    QwenFormat("qwen3_5_keep_thinking", "qwen3_5", "qwen3_5_think", calls=2),
    *(
        NewerFormat(name, family, "written", options={"keep_thinking": True})
        for name, family in (
            ("deepseek_v3_thinking", "deepseek"),
            ("deepseek_v3_1_thinking", "deepseek"),
            ("kimi_k2", "kimi"),
        )
    ),
]


@pytest.mark.parametrize("fmt", [*NEWER, *KEEPING], ids=str)
@pytest.mark.row(49)
def test_the_next_prompt_begins_with_this_one_and_what_was_sampled(fmt: NewerFormat) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    if not renderer.has_extension_property:
        assert fmt not in KEEPING
        pytest.skip("a format that forgets thinking")

    @quick
    @given(st.data(), fmt.tools())
    def check(data: st.DataObject, tools: Any) -> None:
        messages: list[Any] = [{"role": "user", "content": data.draw(plain_text)}]
        for _ in range(data.draw(st.integers(1, 3))):
            prompt = renderer.build_generation_prompt(messages, tools=tools).to_ints()
            said = data.draw(extension.sampled(fmt, tokenizer))
            messages.append(renderer.parse_response(said).message)
            answer = {"role": data.draw(st.sampled_from(["user", "tool"])), "content": data.draw(plain_text)}
            messages.append(answer | ({"tool_call_id": "c"} if answer["role"] == "tool" else {}))
            longer = renderer.build_generation_prompt(messages, tools=tools).to_ints()
            assert longer[: len(prompt) + len(said)] == prompt + said

    check()


@by_family
def test_every_answer_is_learned_once_and_in_the_context_it_is_sampled_in(fmt: NewerFormat) -> None:
    extension.test_every_answer_is_learned_once_and_in_the_context_it_is_sampled_in(fmt)


@by_family
def test_whatever_is_sampled_parses(fmt: NewerFormat) -> None:
    parsing.test_whatever_is_sampled_parses(fmt)


@by_family
def test_a_sampled_answer_reads_as_what_would_be_sampled_again(fmt: NewerFormat) -> None:
    renderer, _ = fmt.renderer_and_tokenizer(merges=False)

    @quick
    @given(fmt.conversations())
    def check(drawn: list[dict[str, Any]]) -> None:
        # A text of arguments would be read as an object.
        messages = [
            with_arguments(m, lambda given: json.loads(given) if isinstance(given, str) else given) for m in drawn
        ]
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            example = renderer.build_supervised_example(messages[: index + 1], "last_assistant_message")
            said = [t for t, w in zip(*example, strict=True) if w]
            parsed = renderer.parse_response(said)
            assert parsed.end != "cut_off"
            assert "unparsed_tool_calls" not in parsed.message
            again = {key: value for key, value in parsed.message.items() if key != "tokens"}
            assert renderer.build_supervised_example([*messages[:index], again], "last_assistant_message") == example
            assert renderer.parse_response(said[:-1]).end == "cut_off"

    check()


@by_family
def test_sampled_ids_stand_in_later_prompts_as_their_text_does(fmt: NewerFormat) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)

    @quick
    @given(fmt.conversations(), fmt.tools())
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        messages = without_seams(messages)
        sampled: list[dict[str, Any]] = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                example = renderer.build_supervised_example(
                    messages[: index + 1], "last_assistant_message", tools=tools
                )
                message = message | {"tokens": [t for t, w in zip(*example, strict=True) if w]}
            sampled.append(message)
        asked = [{"role": "user", "content": "And?"}]
        for end in range(1 + (messages[0]["role"] == "system"), len(messages) + 1):
            more = asked if messages[end - 1]["role"] == "assistant" else []
            by_ids = renderer.build_generation_prompt(sampled[:end] + more, tools=tools).to_ints()
            by_text = renderer.build_generation_prompt(messages[:end] + more, tools=tools).to_ints()
            assert tokenizer.decode(by_ids) == tokenizer.decode(by_text)

    check()


@pytest.mark.row(48)
def test_gpt_oss_is_the_template_where_that_forgets_no_thinking_of_calls() -> None:
    renderer, tokenizer = GPT_OSS.renderer_and_tokenizer()

    @quick
    @given(GPT_OSS.conversations(), GPT_OSS.tools())
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        messages = [{k: v for k, v in m.items() if k != "reasoning_content" or "tool_calls" not in m} for m in messages]
        whole = NewerFormat.template_text(GPT_OSS, tokenizer, messages, False, tools)
        tokens = renderer.build_supervised_example(messages, tools=tools).tokens
        assert tokens == tokenizer.encode(whole, add_special_tokens=False)

    check()


def test_gpt_oss_says_todays_date_unless_told() -> None:
    tokenizer = GPT_OSS.tokenizer()
    question = [{"role": "user", "content": "Q"}]

    def prompt(name: str, **options: Any) -> str:
        return tokenizer.decode(get_renderer(name, tokenizer, **options).build_generation_prompt(question).to_ints())

    before = time.strftime("%Y-%m-%d")
    today = prompt("gpt_oss_low_reasoning")
    assert any(f"Current date: {day}\n\nReasoning: low\n" in today for day in (before, time.strftime("%Y-%m-%d")))
    assert "Current date: 2031-01-02\n\nReasoning: high\n" in prompt("gpt_oss_high_reasoning", date="2031-01-02")
    assert prompt("gpt_oss_no_sysprompt") == "<|start|>user<|message|>Q<|end|><|start|>assistant"
    with pytest.raises(UserError, match="reasoning: got 'huge', expected one of low, medium, high"):
        get_renderer("gpt_oss_no_sysprompt", tokenizer, reasoning="huge")


@examples(60)
@given(json_schemas())
@pytest.mark.row(48)
def test_gpt_oss_declares_tools_as_the_template_does(schema: dict[str, Any]) -> None:
    renderer, tokenizer = GPT_OSS.renderer_and_tokenizer(merges=False)
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}]
    question = [{"role": "user", "content": "Q"}]
    tokens = renderer.build_generation_prompt(question, tools=tools).to_ints()
    assert tokenizer.decode(tokens) == GPT_OSS.template_text(tokenizer, question, True, tools)


CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
ROUND = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "R"}]


def test_rounds_of_calls_that_deepseeks_template_forgets_are_spelled_like_the_first() -> None:
    renderer, tokenizer = DEEPSEEK.renderer_and_tokenizer()
    messages = [{"role": "user", "content": "Q"}, *ROUND, *ROUND, {"role": "assistant", "content": "A"}]
    call = (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜><｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>R<｜tool▁output▁end｜>"
    )
    assert tokenizer.decode(renderer.build_supervised_example(messages).tokens) == (
        f"<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜>{call}<｜tool▁outputs▁end｜>{call}<｜tool▁outputs▁end｜>A<｜end▁of▁sentence｜>"
    )


@pytest.mark.parametrize(
    ("fmt", "said", "thinking", "content", "calls", "reasons"),
    [
        (GPT_OSS, "<|channel|>analysis<|message|>hm", "hm", "", [], []),
        (GPT_OSS, "<|channel|>final<|message|>A<|return|>", None, "A", [], []),
        (
            GPT_OSS,
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            None,
            "",
            [("f", {})],
            [],
        ),
        (
            GPT_OSS,
            "<|channel|>commentary<|message|>See<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
            "<|message|>{<|call|>",
            None,
            "See",
            [],
            ["not JSON"],
        ),
        (GPT_OSS, " to=functions.f<|channel|>comm", None, "", [], ["the call was cut off"]),
        (GPT_OSS, "hello", None, "hello", [], []),
        (QWEN35, "hm\n</think>\n\nA<|im_end|>", "hm", "A", [], []),
        (QWEN35, "hm", "hm", "", [], []),
        (
            QWEN35_OFF,
            "A\n\n<tool_call>\n<function=f>\n<parameter=a>\nTrue\n</parameter>\n<parameter=b>\n[1]\n</parameter>\n"
            "</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>",
            None,
            "A",
            [("f", {"a": True, "b": [1]}), ("g", {})],
            [],
        ),
        (QWEN35_OFF, "<tool_call>f</tool_call>", None, "", [], ["not <function=NAME>"]),
        (QWEN35_OFF, "<tool_call>\n<function=f>\nx\n</function>\n</tool_call>", None, "", [], ["something stands"]),
        (DEEPSEEK_THINKS, "hm", "hm", "", [], []),
        (DEEPSEEK_THINKS, "hm\n</think>\n\nA<｜end▁of▁sentence｜>", "hm", "A", [], []),
        (
            DEEPSEEK,
            "A<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁call▁end｜>",
            None,
            "A",
            [],
            ["nothing parts"],
        ),
        (DEEPSEEK, "<｜tool▁calls▁begin｜>", None, "", [], ["a section without a call"]),
        (
            DEEPSEEK_V31,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}",
            None,
            "",
            [],
            ["the call was cut off"],
        ),
        (
            KIMI,
            "<think>hm</think>A<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
            "{}<|tool_call_end|><|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>",
            "hm",
            "A",
            [("f", {})],
            ["not an id"],
        ),
    ],
)
def test_what_is_read_of_a_sample(
    fmt: NewerFormat, said: str, thinking: str | None, content: str, calls: list[Any], reasons: list[str]
) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)
    message = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False)).message
    assert (message.get("reasoning_content"), message["content"]) == (thinking, content)
    functions = [call["function"] for call in message.get("tool_calls") or []]
    assert [(function["name"], function["arguments"]) for function in functions] == calls
    unparsed = message.get("unparsed_tool_calls", [])
    assert len(unparsed) == len(reasons)
    assert all(found["reason"].startswith(reason) for found, reason in zip(unparsed, reasons, strict=True))


@pytest.mark.parametrize(
    ("fmt", "messages", "expected"),
    [
        (QWEN35, [{"role": "system", "content": "S"}], "messages: got ['system'], expected a question"),
        (QWEN35, [QUESTION, {"role": "system", "content": "S"}], "messages[1].role: got 'system'"),
        (GPT_OSS, [QUESTION, {"role": "system", "content": "S"}], "messages[1].role: got 'system'"),
        (GPT_OSS, [QUESTION, {"role": "tool", "content": "R"}], "messages[1].role: got 'tool', expected a call before"),
        (GPT_OSS, [QUESTION, ROUND[0] | {"tool_calls": [CALL, CALL]}], "messages[1].tool_calls: got ['f', 'f']"),
        (KIMI, [QUESTION, {"role": "tool", "content": "R"}], "messages[1].tool_call_id: got None"),
        (DEEPSEEK, [QUESTION, {"role": "assistant", "content": "", "reasoning_content": "r"}], "messages[1].reasoning"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(fmt: NewerFormat, messages: list[Any], expected: str) -> None:
    renderer, _ = fmt.renderer_and_tokenizer(merges=False)
    with pytest.raises(UserError) as error:
        renderer.build_generation_prompt(messages)
    assert str(error.value).startswith(expected)


def test_thinking_that_was_sampled_where_the_format_has_no_place_for_it_stays_as_it_was() -> None:
    renderer, tokenizer = DEEPSEEK_THINKS.renderer_and_tokenizer()
    said = tokenizer.encode("hm</think>A<｜end▁of▁sentence｜>", add_special_tokens=False)
    message = renderer.parse_response(said).message
    assert message.get("reasoning_content") == "hm"
    prompt = renderer.build_generation_prompt([QUESTION, *ROUND]).to_ints()
    longer = renderer.build_generation_prompt([QUESTION, *ROUND, message, QUESTION]).to_ints()
    assert longer[: len(prompt) + len(said)] == prompt + said


def test_definitions_that_deepseek_cannot_show_are_refused() -> None:
    renderer, _ = DEEPSEEK.renderer_and_tokenizer()
    tools = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(UserError, match=r"tools: got \['f'\], expected none: .* describe them in a system message"):
        renderer.build_generation_prompt([QUESTION], tools=tools)


def test_formats_that_no_published_template_was_held_against_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        for fmt in NEWER:
            fmt.renderer_and_tokenizer()
    warned = {record.message.partition(":")[0] for record in caplog.records}
    assert warned == {f"renderer {fmt.renderer!r}" for fmt in NEWER if fmt.template == "written"}
