"""Renderers against the published chat templates, over random conversations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from transformers import AutoTokenizer

from tests.cookbook.renderers.families import OWN, Format, by_format, quick
from tests.cookbook.renderers.formats import byte_tokenizer, hostile_text, merging_tokenizer
from tinsmith import get_tokenizer, models
from tinsmith.cookbook.renderers import get_renderer


@by_format
@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.row(40, 45, 46, 48)
def test_tokens_are_those_of_the_published_template(fmt: Format, merges: bool) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges)

    @quick
    @given(fmt.conversations(), fmt.tools())
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        if merges:  # an answer that begins with a line break merges with its header in the template, not in a sample
            messages = [m if m["role"] != "assistant" else m | {"content": m["content"].lstrip()} for m in messages]
        example = renderer.build_supervised_example(messages, tools=tools)
        assert len(example.tokens) == len(example.weights)
        assert example.tokens == fmt.template_tokens(tokenizer, messages, False, tools)
        prompt = renderer.build_generation_prompt(messages[:-1], tools=tools).to_ints()
        assert prompt == fmt.template_tokens(tokenizer, messages[:-1], True, tools)

    check()


@by_format
@pytest.mark.row(49)
def test_the_generation_prompt_is_a_prefix_of_the_example(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()

    @quick
    @given(fmt.conversations(hostile_text), fmt.tools(hostile_text))
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        assume(fmt.renderer != "qwen3_disable_thinking" or "</think>" not in messages[-1]["content"])
        prompt = renderer.build_generation_prompt(messages[:-1], tools=tools).to_ints()
        tokens, weights = renderer.build_supervised_example(messages, "last_assistant_message", tools=tools)
        assert tokens[: len(prompt)] == prompt
        assert not any(weights[: len(prompt)])
        assert weights[len(prompt)] == 1.0

    check()


@by_format
@pytest.mark.row(48)
def test_text_that_looks_like_control_tokens_stays_text(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    # Marks that the format looks for in an assistant's text.
    thought = ("<think>", "</think>") if fmt.template == "qwen3" or fmt.renderer == "chat_template" else ()
    controls = {i for i, t in tokenizer.added_tokens_decoder.items() if t.content not in thought}

    @quick
    @given(fmt.conversations(hostile_text), fmt.tools(hostile_text))
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        tokens = renderer.build_supervised_example(messages, tools=tools).tokens
        assert tokenizer.decode(tokens) == tokenizer.decode(fmt.template_tokens(tokenizer, messages, False, tools))
        expected = renderer.build_supervised_example(innocent(messages), tools=innocent(tools)).tokens
        assert [t for t in tokens if t in controls] == [t for t in expected if t in controls]

    check()


def innocent(value: Any, key: str = "") -> Any:
    """Return a value of the same shape in which nobody's words look like anything but words."""
    if isinstance(value, dict):
        kept = ("role", "type", "name")
        return {k: v if k in kept else innocent(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [innocent(item) for item in value]
    if key == "arguments":
        return "{}"
    return "x" * bool(value) if isinstance(value, str) else value


@by_format
@pytest.mark.row(41)
def test_weights_are_on_what_the_assistant_says(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()

    @quick
    @given(fmt.conversations(), fmt.tools())
    def check(messages: list[dict[str, Any]], tools: Any) -> None:
        tokens, weights = renderer.build_supervised_example(messages, tools=tools)
        assert set(weights) <= {0.0, 1.0}
        spoken = runs_of_weight(tokens, weights, set(renderer.get_stop_sequences()))
        answers = [message for message in messages if message["role"] == "assistant"]
        assert len(spoken) == len(answers)
        for said, answer in zip(spoken, answers, strict=True):
            text = tokenizer.decode(said).rpartition("</think>")[2]
            beside_calls, _, called = text.partition("<tool_call>" if "<tool_call>" in text else '{"name": "')
            for call in answer.get("tool_calls", []):
                assert call["function"]["name"] in called
            normal = tokenizer.decode(tokenizer.encode(answer["content"], add_special_tokens=False))
            assert beside_calls.strip() == normal.strip()

    check()


def runs_of_weight(tokens: list[int], weights: list[float], stops: set[Any]) -> list[list[int]]:
    """Return the stretches of weight 1, each without the end marker that closes it."""
    spoken: list[list[int]] = []
    run: list[int] = []
    for token, weight in zip(tokens, weights, strict=True):
        if weight and token in stops:
            spoken.append(run)
            run = []
        elif weight:
            run.append(token)
        else:
            assert not run, "what is learned ends in an end marker"
    assert not run
    return spoken


CONVERSATION = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2"},
    {"role": "assistant", "content": "A2"},
    {"role": "assistant", "content": "A3"},
]
CALL = {"type": "function", "function": {"name": "C", "arguments": {}}}
WITH_TOOLS = [
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "R1"},
    {"role": "assistant", "content": "A1"},
]
TOOLS = [{"type": "function", "function": {"name": "C", "description": "d", "parameters": {"type": "object"}}}]


@pytest.mark.row(42, 43)
@pytest.mark.parametrize(
    ("what", "learned"),
    [
        ("last_assistant_message", "A3"),
        ("last_assistant_turn", "A2 A3"),
        ("all_assistant_messages", "A1 A2 A3"),
        (None, "A1 A2 A3"),
        ("all_messages", "S U1 A1 U2 A2 A3"),
        ("all_user_and_system_messages", "S U1 U2"),
        ("customized", "U1 A2"),
    ],
)
@by_format
def test_train_on_what(fmt: Format, what: str | None, learned: str) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    messages: list[dict[str, Any]] = CONVERSATION
    if what == "customized":
        messages = [m | {"trainable": m["content"] in learned.split()} for m in messages]
    options = {} if what is None else {"train_on_what": what}
    said = learned_text(tokenizer, renderer.build_supervised_example(messages, **options))
    marker = tokenizer.eos_token
    assert [part.strip().removeprefix("<think>\n\n</think>\n\n") for part in said.split(marker) if part] == (
        learned.split()
    )
    assert said.endswith(marker)


@pytest.mark.row(42)
@pytest.mark.parametrize(
    ("what", "learned"),
    [
        ("last_assistant_message", "A1"),
        ("last_assistant_turn", "{C} A1"),
        ("all_assistant_messages", "{C} A1"),
        ("all_messages", "U1 {C} R1 A1"),
        ("all_user_and_system_messages", "U1"),
        ("customized", "R1 A1"),
    ],
)
@pytest.mark.parametrize("fmt", [fmt for fmt in OWN if fmt.calls], ids=str)
def test_train_on_what_with_tools(fmt: Format, what: str, learned: str) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    messages: list[dict[str, Any]] = WITH_TOOLS
    if what == "customized":
        messages = [m | {"trainable": m["content"] in learned.split()} for m in messages]
    said = learned_text(tokenizer, renderer.build_supervised_example(messages, what, tools=TOOLS))
    parts = said.replace("<|eom_id|>", tokenizer.eos_token).split(tokenizer.eos_token)
    assert parts.pop() == ""
    assert len(parts) == len(learned.split())
    for part, word in zip(parts, learned.split(), strict=True):
        assert word.strip("{}") in part
        assert ('"name": "C"' in part) == (word == "{C}")
    assert '"description"' not in said


def learned_text(tokenizer: Any, example: Any) -> str:
    """Return the text of the tokens of weight 1."""
    return tokenizer.decode([t for t, w in zip(example.tokens, example.weights, strict=True) if w])


@by_format
@pytest.mark.row(42)
def test_all_tokens_masks_nothing(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()
    tokens, weights = renderer.build_supervised_example(CONVERSATION, "all_tokens")
    assert weights == [1.0] * len(tokens)


@pytest.mark.row(44)
def test_role_colon() -> None:
    tokenizer = merging_tokenizer("llama", "llama3")
    renderer = get_renderer("role_colon", tokenizer)
    example = renderer.build_supervised_example(CONVERSATION[:5])
    assert tokenizer.decode(example.tokens) == (
        "<|begin_of_text|>System: S\n\nUser: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant: A2\n\nUser:"
    )
    assert learned_text(tokenizer, example) == " A1\n\nUser: A2\n\nUser:"
    prompt = renderer.build_generation_prompt(CONVERSATION[:4]).to_ints()
    assert example.tokens[: len(prompt)] == prompt
    assert renderer.get_stop_sequences() == ["\n\nUser:"]
    parsed = renderer.parse_response(example.tokens[len(prompt) :])
    assert (parsed.message["content"], parsed.end) == ("A2", "marker")


def test_thinking_disabled_prompts_hold_an_empty_thought() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    messages = [{"role": "user", "content": "Q"}]
    for name, ending in (("qwen3", "assistant\n"), ("qwen3_disable_thinking", "assistant\n<think>\n\n</think>\n\n")):
        prompt = get_renderer(name, tokenizer).build_generation_prompt(messages)
        assert tokenizer.decode(prompt.to_ints()).endswith(ending)


def test_thinking_written_into_the_text_is_read_as_the_template_reads_it() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}]
    tokens = get_renderer("qwen3", tokenizer).build_supervised_example(messages).tokens
    assert tokens == tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)
    assert tokenizer.convert_tokens_to_ids("<think>") in tokens


@pytest.mark.row(50)
@pytest.mark.parametrize("name", ["tinsmith_tiny", "chat_template"])
def test_the_sdks_tokenizer_serves_as_well_as_that_of_transformers(name: str) -> None:
    ours = get_renderer(name, get_tokenizer(str(models.path())))
    theirs = get_renderer(name, AutoTokenizer.from_pretrained(models.path()))
    assert ours.build_supervised_example(CONVERSATION) == theirs.build_supervised_example(CONVERSATION)
    assert ours.get_stop_sequences() == theirs.get_stop_sequences()
