"""The renderer of any chat template: marks against differences, sampled ids, foreign templates, what is refused."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.cookbook.renderers.foreign import foreign_tokenizer, template_names
from tests.cookbook.renderers.formats import conversations, hostile_text, plain_text, tool_specs
from tests.cookbook.renderers.newer_families import with_arguments
from tests.support.examples import examples
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.renderers.template.template_renderer import TemplateRenderer
from tinsmith.types.errors import UserError

quick = examples(8)
TWINS = template_names("_training")
# (template, whether it has a place for calls, for thinking)
FOREIGN = [
    ("cohere", False, False),
    ("cohere2", False, False),
    ("gemma3", False, False),
    ("gemma4_v5", False, False),
    ("lfm2_v2", True, False),
    ("lfm2_2_5_v2", False, True),
    ("nemotron_3_nano", True, False),
    ("phi3", False, False),
    ("glm4moe_training", True, True),
    ("gptoss", True, True),
    ("qwen3_8", True, True),
]
by_foreign = pytest.mark.parametrize(("name", "calls", "thinking"), FOREIGN, ids=[name for name, *_ in FOREIGN])


def template_renderer(tokenizer: Any) -> TemplateRenderer:
    renderer = get_renderer("chat_template", tokenizer)
    assert isinstance(renderer, TemplateRenderer)
    return renderer


def fitting(renderer: TemplateRenderer, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation without what a template has no place for, with calls as it wants them."""
    able = renderer.abilities
    dropped = {"reasoning_content"} if able.thinking is None else set()
    fitted: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message["role"] == "system" or ("tool_calls" in message and able.arguments is None):
            continue  # some templates refuse the one, some leave out the other
        if message["role"] == "tool":
            message = message | {"name": "add", "tool_call_id": f"functions.add:{number}"}
            if not able.results:
                continue
        fitted.append({key: value for key, value in message.items() if key not in dropped})
    return fitted


def as_template_reads(renderer: TemplateRenderer, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    able = renderer.abilities

    def form(given: Any) -> Any:
        if able.arguments == "text":
            return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return json.loads(given) if able.arguments == "object" and isinstance(given, str) else given

    field = able.thinking or "reasoning_content"
    renamed = [{field if k == "reasoning_content" else k: v for k, v in m.items()} for m in messages]
    return [with_arguments(message, form) for message in renamed]


def drawn(text: st.SearchStrategy[str], calls: bool, thinking: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    return conversations(text, thinking=thinking, calls=int(calls), talks_beside_calls=False)


@by_foreign
@pytest.mark.row(50)
def test_tokens_are_those_of_a_foreign_template(name: str, calls: bool, thinking: bool) -> None:
    tokenizer = foreign_tokenizer(name)
    renderer = template_renderer(tokenizer)

    @quick
    @given(drawn(plain_text, calls, thinking), st.one_of(st.none(), tool_specs()))
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        tools = tools if renderer.abilities.tools else None
        messages = fitting(renderer, messages)
        read = as_template_reads(renderer, messages)
        text = str(tokenizer.apply_chat_template(read, tools=tools, tokenize=False))
        tokens, weights = renderer.build_supervised_example(messages, tools=tools)
        assert tokens == tokenizer.encode(text, add_special_tokens=False)
        assert len(weights) == len(tokens)
        prompt = str(tokenizer.apply_chat_template(read[:-1], tools=tools, tokenize=False, add_generation_prompt=True))
        assert renderer.build_generation_prompt(messages[:-1], tools=tools).to_ints() == tokenizer.encode(
            prompt, add_special_tokens=False
        )
        ends = [t for t, w in zip(tokens, weights, strict=True) if w and t in renderer.get_stop_sequences()]
        assert len(ends) >= sum("tool_calls" not in m for m in messages[-1:])

    check()


@by_foreign
@pytest.mark.row(41, 48, 50)
def test_what_a_foreign_template_teaches_is_the_answer_and_its_end(name: str, calls: bool, thinking: bool) -> None:
    tokenizer = foreign_tokenizer(name)
    renderer = template_renderer(tokenizer)
    stops = renderer.get_stop_sequences()

    @quick
    @given(drawn(hostile_text, calls, thinking=False))
    def check(messages: list[dict[str, Any]]) -> None:
        messages = fitting(renderer, messages)
        for message in messages:  # templates look for thinking in an answer's text
            message["content"] = re.sub("</?think>", "", message["content"])
        example = renderer.build_supervised_example(messages, "last_assistant_message")
        said = [t for t, w in zip(*example, strict=True) if w]
        assert said[-1] in stops
        assert messages[-1]["content"].strip() in tokenizer.decode(said)
        if renderer.goes_on:
            prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
            assert example.tokens[: len(prompt)] == prompt
            assert example.weights.index(1.0) == len(prompt)
        text = tokenizer.decode(example.tokens)
        read = as_template_reads(renderer, messages)
        assert text == tokenizer.apply_chat_template(read, tokenize=False)

    check()


def without_marks(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer with a template that writes the same and does not say what it generates."""
    plain = re.sub(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})", r"\1if true\2", str(tokenizer.chat_template))
    plain = re.sub(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})", r"\1endif\2", plain)
    assert plain != tokenizer.chat_template
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=plain,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
    )


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.row(41, 50)
def test_weights_of_generation_marks_are_those_of_differences(name: str) -> None:
    tokenizer = foreign_tokenizer(name)
    by_marks, by_differences = template_renderer(tokenizer), template_renderer(without_marks(tokenizer))
    assert by_marks.abilities == by_differences.abilities
    calls = by_marks.abilities.results and name != "deepseekv3_training"  # forgets the header of later rounds

    @quick
    @given(drawn(plain_text, calls, thinking=True))
    def check(messages: list[dict[str, Any]]) -> None:
        messages = fitting(by_marks, messages)
        example = by_marks.build_supervised_example(messages)
        assert example == by_differences.build_supervised_example(messages)
        assert 1.0 in example.weights

    check()


@pytest.mark.parametrize("name", ["qwen3_training", "gemma3_training", "gptoss_training"])
@pytest.mark.row(50)
def test_the_sdks_tokenizer_has_generation_marks_too(name: str) -> None:
    theirs = foreign_tokenizer(name)
    config = {"bos_token": theirs.bos_token, "eos_token": theirs.eos_token}
    ours = Tokenizer(theirs.backend_tokenizer, config, str(theirs.chat_template))
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "R"},
        {"role": "assistant", "content": "B"},
    ]
    expected = template_renderer(theirs).build_supervised_example(messages)
    assert template_renderer(ours).build_supervised_example(messages) == expected


SAMPLED = ["qwen2_5", "qwen3", "qwen3_5_think", "llama3", "cohere2", "gemma3", "qwen3_8", "deepseekv3"]


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.row(49, 50)
def test_sampled_ids_are_used_as_they_are(name: str) -> None:
    tokenizer = foreign_tokenizer(name)
    renderer = template_renderer(tokenizer)
    stop = [s for s in renderer.get_stop_sequences() if isinstance(s, int)][-1]
    letters = st.lists(st.integers(0, 255), min_size=1, max_size=6)

    @quick
    @given(st.lists(st.tuples(letters, letters, st.booleans()), min_size=1, max_size=3))
    def check(turns: list[tuple[list[int], list[int], bool]]) -> None:
        messages: list[Any] = []
        for thought, answer, ended in turns:
            messages.append({"role": "user", "content": "Q"})
            prompt = renderer.build_generation_prompt(messages).to_ints()
            closing = tokenizer.encode("</think>", add_special_tokens=False) if renderer.abilities.thinking else []
            said = (thought + closing if closing else []) + answer + [stop] * ended
            messages.append(renderer.parse_response(said).message)
            example = renderer.build_supervised_example(messages, "last_assistant_message")
            if renderer.goes_on:
                assert example.tokens[: len(prompt) + len(said)] == prompt + said
                assert example.weights[: len(prompt) + len(said)] == [0.0] * len(prompt) + [1.0] * len(said)
                assert not any(example.weights[len(prompt) + len(said) :])
            question = {"role": "user", "content": "And?"}
            longer = renderer.build_generation_prompt([*messages, question]).to_ints()
            if renderer.has_extension_property:
                assert longer[: len(prompt) + len(said)] == prompt + said
            else:
                kept = "".join(map(chr, answer + [stop] * ended))
                assert kept in "".join(map(chr, longer))
                assert longer.count(closing[0] if closing else -1) < len(turns) + 1

    check()


def test_who_claims_the_extension_property() -> None:
    claims = {name: template_renderer(foreign_tokenizer(name)).has_extension_property for name in SAMPLED}
    assert claims == {
        "qwen2_5": True,
        "qwen3": False,
        "qwen3_5_think": False,
        "llama3": True,
        "cohere2": True,
        "gemma3": True,
        "qwen3_8": True,
        "deepseekv3": False,
    }


@pytest.mark.parametrize(
    ("name", "said", "thinking", "content", "calls", "reason"),
    [
        ("qwen3", "<think>\nhm\n</think>\n\nA<|im_end|>", "hm", "A", [], None),
        ("qwen3_5_think", "hm\n</think>\n\nA<|im_end|>", "hm", "A", [], None),
        (
            "qwen3",
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call><|im_end|>',
            None,
            "",
            [("f", {"a": 1}), ("g", {})],
            None,
        ),
        ("qwen3", 'A\n<tool_call>\n{"name": "f"}\n</tool_call><|im_end|>', None, "A", [], "no name and arguments"),
        ("qwen3", 'A\n<tool_call>\n{"name": "f", "arg', None, "A", [], "it breaks off"),
        ("llama3_1", '{"name": "f", "parameters": {"a": 1}}<|eot_id|>', None, "", [("f", {"a": 1})], None),
        ("llama3_1", '{"name": "Ann", "age": 3}<|eot_id|>', None, '{"name": "Ann", "age": 3}', [], None),
        (
            "deepseekv3",
            "A<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>\n"
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            None,
            "A",
            [("f", {}), ("g", {})],
            None,
        ),
        (
            "gptoss",
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
            "<|message|>{}<|call|>",
            "hm",
            "",
            [("f", {})],
            None,
        ),
        (
            "nemotron_3_nano",
            "hm</think><tool_call>\n<function=f>\n</function>\n</tool_call>",
            "hm",
            "",
            [("f", {})],
            None,
        ),
        ("lfm2_v2", "<|tool_call_start|>[f()]<|tool_call_end|>", None, "", [], "renderer 'chat_template' cannot read"),
    ],
)
def test_samples_are_read_as_the_template_writes(
    name: str, said: str, thinking: str | None, content: str, calls: list[Any], reason: str | None
) -> None:
    tokenizer = foreign_tokenizer(name)
    tokens = tokenizer.encode(said, add_special_tokens=False)
    message = template_renderer(tokenizer).parse_response(tokens).message
    assert (message.get("reasoning_content"), message["content"]) == (thinking, content)
    functions = [call["function"] for call in message.get("tool_calls") or []]
    assert [(function["name"], function["arguments"]) for function in functions] == calls
    reasons = [unparsed["reason"] for unparsed in message.get("unparsed_tool_calls", [])]
    assert len(reasons) == (reason is not None)
    assert not reason or reasons[0].startswith(reason)
    assert message.get("tokens") == tokens


def test_marks_that_are_spelled_in_letters_are_text() -> None:
    tokenizer = foreign_tokenizer("qwen3")
    spelled = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    letters = [t for c in spelled for t in tokenizer.encode(c, add_special_tokens=False)]
    message = template_renderer(tokenizer).parse_response(letters).message
    assert (message["content"], message.get("tool_calls")) == (spelled, None)


CALL = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": {}}}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
QUESTION = {"role": "user", "content": "Q"}


@pytest.mark.parametrize(
    ("name", "messages", "tools", "expected"),
    [
        ("gemma3", [QUESTION], TOOLS, "tools: got ['f'], expected none: the chat template shows none"),
        (
            "gemma3",
            [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
            None,
            "messages[1].tool_calls: got ['f'], expected none",
        ),
        ("llama3", [QUESTION, {"role": "tool", "content": "R"}], None, "messages[1].role: got 'tool'"),
        (
            "llama3",
            [QUESTION, {"role": "assistant", "content": "A", "reasoning_content": "hm"}],
            None,
            "messages[1].reasoning_content: got 'hm'",
        ),
        (
            "gemma",
            [{"role": "system", "content": "S"}, QUESTION],
            None,
            "messages: the tokenizer's chat template refuses",
        ),
    ],
)
@pytest.mark.row(50)
def test_what_the_template_would_leave_out_is_refused(name: str, messages: Any, tools: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        template_renderer(foreign_tokenizer(name)).build_generation_prompt(messages, tools=tools)
    assert str(error.value).startswith(expected)


@pytest.mark.row(50)
def test_a_template_that_ends_no_turn_is_refused() -> None:
    with pytest.raises(UserError, match="got 'no control token after an answer'"):
        template_renderer(foreign_tokenizer("glm4moe"))


def test_thinking_in_ids_that_nothing_marks_is_refused_in_later_turns() -> None:
    tokenizer = foreign_tokenizer("gptoss")
    renderer = template_renderer(tokenizer)
    said = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>"
    message = renderer.parse_response(tokenizer.encode(said, add_special_tokens=False)).message
    assert renderer.build_supervised_example([QUESTION, message]).weights.count(1.0) == len(message.get("tokens", []))
    with pytest.raises(UserError, match=r"messages\[1\].tokens: .* name the renderer of the model's family"):
        renderer.build_generation_prompt([QUESTION, message, QUESTION])


def test_a_prompt_that_answers_do_not_begin_with_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        template_renderer(foreign_tokenizer("deepseekv3"))
        template_renderer(foreign_tokenizer("qwen3"))
    (record,) = caplog.records
    assert r"a prompt ends in '｜Assistant｜><think>\n'" in record.message
