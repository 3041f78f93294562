"""Conversations of odd shapes: messages out of their order, calls without words, other names for the same field."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from tests.cookbook.renderers.families import LLAMA3, LLAMA31, QWEN3, TINY, Format
from tests.cookbook.renderers.foreign import foreign_tokenizer
from tests.cookbook.renderers.formats import merging_tokenizer
from tests.cookbook.renderers.newer_families import DEEPSEEK
from tinsmith.cookbook.renderers import TrainOnWhat, TurnEnd, get_renderer, get_text_content
from tinsmith.cookbook.renderers.families.typescript import show_type
from tinsmith.cookbook.renderers.template.template_text import TemplateText
from tinsmith.types.errors import UserError

SYSTEM = {"role": "system", "content": "S"}
QUESTION = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "R"}
TEMPLATE = Format("chat_template", "qwen3", "qwen3")
COLON = Format("role_colon", "llama", "llama3")


@pytest.mark.row(48)
def test_a_call_behind_thinking_reads_as_a_call_without_words() -> None:
    renderer, _ = QWEN3.renderer_and_tokenizer()
    example = renderer.build_supervised_example([QUESTION, CALLS | {"reasoning_content": "hm"}])
    said = [t for t, w in zip(*example, strict=True) if w]
    message = renderer.parse_response(said).message
    assert (message["content"], message.get("reasoning_content")) == ("", "hm")
    again: Any = {key: value for key, value in message.items() if key != "tokens"}
    assert renderer.build_supervised_example([QUESTION, again]) == example


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, CALLS, RESULT],
        [QUESTION, CALLS, RESULT, RESULT],
        [QUESTION, CALLS, RESULT, SYSTEM],
        [QUESTION, CALLS, RESULT, SYSTEM, ANSWER],
        [QUESTION, CALLS, SYSTEM, RESULT, ANSWER, SYSTEM],
    ],
)
@pytest.mark.row(48)
def test_deepseek_puts_system_messages_first_and_closes_results(messages: list[dict[str, Any]]) -> None:
    renderer, tokenizer = DEEPSEEK.renderer_and_tokenizer()
    text = DEEPSEEK.template_text(tokenizer, messages, False)
    assert tokenizer.decode(renderer.build_supervised_example(messages, "all_messages").tokens) == text
    if messages[-1]["role"] == "tool":
        prompt = renderer.build_generation_prompt(messages).to_ints()
        assert tokenizer.decode(prompt) == DEEPSEEK.template_text(tokenizer, messages, True)


@pytest.mark.parametrize("what", ["all_messages", "all_tokens", "all_assistant_messages", "last_assistant_message"])
@pytest.mark.row(42, 50)
def test_what_is_learned_of_a_template_changes_no_token(what: str) -> None:
    tokenizer: Any = merging_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("chat_template", tokenizer)
    messages = [{"role": "system", "content": "\n\nS"}, {"role": "user", "content": "\nQ"}, ANSWER]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    example = renderer.build_supervised_example(messages, what)
    assert example.tokens == tokenizer.encode(text, add_special_tokens=False)
    assert 1.0 in example.weights


@pytest.mark.row(42, 50)
def test_messages_that_a_template_moves_are_learned_where_they_stand() -> None:
    tokenizer: Any = foreign_tokenizer("deepseekv3")
    renderer = get_renderer("chat_template", tokenizer)
    messages = [QUESTION, ANSWER, SYSTEM]
    tokens, weights = renderer.build_supervised_example(messages, TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES)
    assert tokenizer.decode(tokens) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w]) == "SQ"


@pytest.mark.row(50)
def test_a_turn_that_ended_in_a_marker_of_calls_stays_as_it_was_sampled() -> None:
    tokenizer = foreign_tokenizer("gptoss")
    renderer = get_renderer("chat_template", tokenizer)
    prompt = renderer.build_generation_prompt([QUESTION]).to_ints()
    said = tokenizer.encode("<|channel|>commentary<|message|>no call<|call|>", add_special_tokens=False)
    parsed = renderer.parse_response(said)
    assert parsed.end is TurnEnd.TOOL_MARKER
    assert renderer.build_supervised_example([QUESTION, parsed.message]).tokens == prompt + said


@pytest.mark.parametrize("name", ["lfm2_2_5", "gptoss", "qwen3"])
@pytest.mark.row(50)
def test_calls_beside_no_content_are_calls_beside_an_empty_text(name: str) -> None:
    renderer = get_renderer("chat_template", foreign_tokenizer(name))
    expected = renderer.build_supervised_example([QUESTION, CALLS])
    assert renderer.build_supervised_example([QUESTION, CALLS | {"content": None}]) == expected


@pytest.mark.row(50)
def test_thinking_of_others_than_the_assistant_is_refused() -> None:
    renderer = get_renderer("chat_template", foreign_tokenizer("qwen3"))
    with pytest.raises(UserError, match=r"messages\[0\].reasoning_content: got 'hm', expected none"):
        renderer.check([QUESTION | {"reasoning_content": "hm"}, ANSWER])


def test_thinking_has_two_names() -> None:
    renderer, _ = TINY.renderer_and_tokenizer()
    expected = renderer.build_supervised_example([QUESTION, ANSWER | {"reasoning_content": "hm"}])
    given = ANSWER | {"thinking": "hm", "reasoning_content": None}
    assert renderer.build_supervised_example([QUESTION, given]) == expected
    with pytest.raises(UserError, match=r"messages\[1\].thinking: got 'hm', expected none beside reasoning_content"):
        renderer.check([QUESTION, given | {"reasoning_content": "oh"}])


def test_empty_thinking_is_none() -> None:
    renderer, _ = LLAMA3.renderer_and_tokenizer()
    expected = renderer.build_supervised_example([QUESTION, ANSWER])
    assert renderer.build_supervised_example([QUESTION, ANSWER | {"reasoning_content": ""}]) == expected


def test_truth_values_are_no_token_ids() -> None:
    renderer, _ = LLAMA3.renderer_and_tokenizer()
    with pytest.raises(UserError, match=r"messages\[1\].tokens: got \[True\], expected a list of token ids"):
        renderer.check([QUESTION, ANSWER | {"tokens": [True]}])


def test_schemas_that_are_none_are_any() -> None:
    assert show_type({"oneOf": [1, {"type": "string"}]}) == "any | \nstring"
    assert show_type({"type": ["string", 5]}) == "string | 5"


def test_what_a_script_asks_of_a_renderer_and_a_message() -> None:
    renderer, tokenizer = LLAMA3.renderer_and_tokenizer()
    assert renderer.tokenizer is tokenizer
    assert [end.is_clean for end in TurnEnd] == [True, True, False]
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert get_text_content({"role": "assistant", "content": parts}) == "AB"
    assert get_text_content({"role": "user", "content": "Q"}) == "Q"
    with pytest.raises(UserError, match=r"message.content\[0\]: got {'type': 'image'}"):
        get_text_content({"role": "user", "content": [{"type": "image"}]})


@pytest.mark.parametrize("fmt", [LLAMA3, DEEPSEEK, TEMPLATE, COLON], ids=str)
def test_sampled_ids_come_in_any_array(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()
    message = renderer.parse_response(np.array([65, 66])).message  # pyright: ignore[reportArgumentType]
    assert json.dumps(message) == json.dumps(renderer.parse_response([65, 66]).message)
    renderer.check([QUESTION, message])
    for wrong in (None, "ab", [1.5], ["a"]):
        with pytest.raises(UserError, match=r"tokens: got .*, expected a list of token ids"):
            renderer.parse_response(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="tokens: got -1, expected token ids, which are not negative"):
        renderer.parse_response([3, -1])


@pytest.mark.parametrize("fmt", [LLAMA3, TEMPLATE, COLON], ids=str)
@pytest.mark.parametrize("prefill", [5, "\ud800"])
def test_a_prefill_is_text(fmt: Format, prefill: Any) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()
    with pytest.raises(UserError, match="prefill: got"):
        renderer.build_generation_prompt([QUESTION], prefill)
    with pytest.raises(UserError, match="prefill: got"):
        renderer.parse_response([65], prefill=prefill)


@pytest.mark.parametrize(
    ("fmt", "name", "options", "expected"),
    [
        (QWEN3, None, {}, "renderer name: got None, expected a string"),
        (QWEN3, "qwen3", {"thinking": "no"}, "thinking: got 'no', expected true or false"),
        (LLAMA31, "llama3_1", {"date_string": None}, "date_string: got None, expected a string"),
        (LLAMA31, "llama3_1", {"builtin_tools": "brave_search"}, "builtin_tools: got 'brave_search', expected a list"),
        (LLAMA31, "llama3_1", {"builtin_tools": [3]}, r"builtin_tools: got \[3\], expected a list of names"),
    ],
)
def test_options_of_another_kind_are_refused(fmt: Format, name: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        get_renderer(name, fmt.tokenizer(), **options)


@pytest.mark.parametrize("template", ["phi3", "qwen3", "gemma3", "cohere2"])
@pytest.mark.row(49, 50)
def test_answers_that_nobody_learns_begin_where_their_prompts_end(template: str) -> None:
    renderer = get_renderer("chat_template", foreign_tokenizer(template, merges=True))
    answer = ANSWER | {"content": "\n\nA"}
    messages = [QUESTION, answer, QUESTION, answer]
    whole = renderer.build_supervised_example(messages)
    assert renderer.build_supervised_example(messages, "last_assistant_message").tokens == whole.tokens
    for end in (1, 3):
        prompt = renderer.build_generation_prompt(messages[:end]).to_ints()
        assert whole.tokens[: len(prompt)] == prompt


def test_a_long_conversation_is_written_once_for_a_prompt_and_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = get_renderer("chat_template", foreign_tokenizer("qwen3"))
    written: list[int] = []
    render = TemplateText.render

    def counted(self: TemplateText, messages: Any, *rest: Any, **options: Any) -> str:
        written.append(len(messages))
        return render(self, messages, *rest, **options)

    monkeypatch.setattr(TemplateText, "render", counted)
    renderer.build_generation_prompt([QUESTION, ANSWER] * 50 + [QUESTION])
    assert written == [101]
    written.clear()
    renderer.build_supervised_example([QUESTION, ANSWER] * 50, "last_assistant_message")
    assert len(written) < 6


@pytest.mark.parametrize("fmt", [TINY, LLAMA31, QWEN3, DEEPSEEK, TEMPLATE, COLON], ids=str)
def test_renderers_go_to_other_processes(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()
    expected = renderer.build_supervised_example([QUESTION, ANSWER])
    twin = pickle.loads(pickle.dumps(renderer))
    assert twin.build_supervised_example([QUESTION, ANSWER]) == expected
    assert (twin.name, twin.get_stop_sequences()) == (renderer.name, renderer.get_stop_sequences())
