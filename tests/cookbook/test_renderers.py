"""Renderers against the published chat templates, over random conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.cookbook.formats import byte_tokenizer, conversations, hostile_text, merging_tokenizer
from tests.support.checkpoints import make_tokenizer
from tinsmith import get_tokenizer, models
from tinsmith.cookbook.renderers import Renderer, TrainOnWhat, get_renderer
from tinsmith.cookbook.renderers.base import TurnEnd
from tinsmith.types.errors import UserError


@dataclass(frozen=True)
class Format:
    """A renderer, the published template it must equal, and how that is called."""

    renderer: str
    family: str
    template: str
    prompt_options: tuple[tuple[str, Any], ...] = ()
    thinking: bool = False

    def tokenizer(self, merges: bool) -> Any:
        if self.family == "tiny":
            return AutoTokenizer.from_pretrained(models.path())
        if self.template == "support":
            return make_tokenizer(self.family)
        return (merging_tokenizer if merges else byte_tokenizer)(self.family, self.template)


FORMATS = [
    Format("tinsmith_tiny", "tiny", "", thinking=True),
    Format("llama3", "llama", "llama3"),
    Format("qwen2_5", "qwen3", "qwen2_5"),
    Format("qwen3", "qwen3", "qwen3", thinking=True),
    Format("qwen3_disable_thinking", "qwen3", "qwen3", (("enable_thinking", False),)),
    Format("qwen3_instruct", "qwen3", "qwen3_instruct_2507"),
    Format("chat_template", "llama", "llama3"),
    Format("chat_template", "qwen3", "qwen3", thinking=True),
    Format("chat_template", "tiny", "", thinking=True),
    Format("chat_template", "qwen3", "support"),
]
by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.renderer}-{f.template or 'tiny'}")
quick = settings(max_examples=25, deadline=None)


def tool(fmt: Format, merges: bool = True) -> tuple[Renderer, Any]:
    tokenizer = fmt.tokenizer(merges)
    return get_renderer(fmt.renderer, tokenizer), tokenizer


def template_text(fmt: Format, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool) -> str:
    options = dict(fmt.prompt_options) if prompt else {}
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **options)


def template_tokens(fmt: Format, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool) -> list[int]:
    return tokenizer.encode(template_text(fmt, tokenizer, messages, prompt), add_special_tokens=False)


@by_format
@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.row(40, 45, 46, 48)
def test_tokens_are_those_of_the_published_template(fmt: Format, merges: bool) -> None:
    renderer, tokenizer = tool(fmt, merges)

    @quick
    @given(st.data())
    def check(data: st.DataObject) -> None:
        messages = data.draw(conversations(thinking=fmt.thinking))
        if merges:  # an answer that begins with a line break merges with its header in the template, not in a sample
            messages = [m if m["role"] != "assistant" else m | {"content": m["content"].lstrip()} for m in messages]
        example = renderer.build_supervised_example(messages)
        assert len(example.tokens) == len(example.weights)
        assert example.tokens == template_tokens(fmt, tokenizer, messages, prompt=False)
        prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
        assert prompt == template_tokens(fmt, tokenizer, messages[:-1], prompt=True)

    check()


@by_format
@pytest.mark.row(49)
def test_the_generation_prompt_is_a_prefix_of_the_example(fmt: Format) -> None:
    renderer, _ = tool(fmt)

    @quick
    @given(conversations(hostile_text, thinking=fmt.thinking))
    def check(messages: list[dict[str, Any]]) -> None:
        assume(fmt.renderer != "qwen3_disable_thinking" or "</think>" not in messages[-1]["content"])
        prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
        tokens, weights = renderer.build_supervised_example(messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
        assert tokens[: len(prompt)] == prompt
        assert not any(weights[: len(prompt)])
        assert weights[len(prompt)] == 1.0

    check()


@by_format
@pytest.mark.row(48)
def test_text_that_looks_like_control_tokens_stays_text(fmt: Format) -> None:
    renderer, tokenizer = tool(fmt)
    controls = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    innocent = [{"role": "system", "content": "x"}] + [{"role": r, "content": "x"} for r in ("user", "assistant") * 3]

    @quick
    @given(conversations(hostile_text))
    def check(messages: list[dict[str, Any]]) -> None:
        tokens = renderer.build_supervised_example(messages).tokens
        assert tokenizer.decode(tokens) == tokenizer.decode(template_tokens(fmt, tokenizer, messages, prompt=False))
        same_shape = innocent[int(messages[0]["role"] != "system") :][: len(messages)]
        expected = [t for t in renderer.build_supervised_example(same_shape).tokens if t in controls]
        assert [t for t in tokens if t in controls] == expected

    check()


@by_format
@pytest.mark.row(41)
def test_weights_are_on_what_the_assistant_says(fmt: Format) -> None:
    renderer, tokenizer = tool(fmt)

    @quick
    @given(conversations())
    def check(messages: list[dict[str, Any]]) -> None:
        stop = renderer.get_stop_sequences()[0]
        tokens, weights = renderer.build_supervised_example(messages)
        spoken: list[str] = []
        run: list[int] = []
        for token, weight in zip(tokens, weights, strict=True):
            assert weight in (0.0, 1.0)
            if weight:
                run.append(token)
            if run and token == stop:
                assert weight == 1.0
                spoken.append(tokenizer.decode(run[:-1]))
                run = []
        assert not run
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        assert len(spoken) == len(answers)
        for said, answer in zip(spoken, answers, strict=True):
            thought, _, text = said.rpartition("</think>")
            assert thought in ("", "<think>\n\n")
            assert text.strip() == tokenizer.decode(tokenizer.encode(answer, add_special_tokens=False)).strip()

    check()


CONVERSATION = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2"},
    {"role": "assistant", "content": "A2"},
    {"role": "assistant", "content": "A3"},
]


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
@pytest.mark.parametrize("fmt", FORMATS[1:3] + FORMATS[6:7], ids=lambda f: f.renderer)
def test_train_on_what(fmt: Format, what: str | None, learned: str) -> None:
    renderer, tokenizer = tool(fmt)
    messages: list[dict[str, Any]] = CONVERSATION
    if what == "customized":
        messages = [m | {"trainable": m["content"] in learned.split()} for m in messages]
    options = {} if what is None else {"train_on_what": what}
    tokens, weights = renderer.build_supervised_example(messages, **options)
    said = tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w])
    marker = tokenizer.eos_token
    assert [part.strip() for part in said.split(marker) if part] == learned.split()
    assert said.endswith(marker)


def test_all_tokens_masks_nothing() -> None:
    for fmt in FORMATS[:3] + FORMATS[6:8]:
        renderer, _ = tool(fmt)
        tokens, weights = renderer.build_supervised_example(CONVERSATION, "all_tokens")
        assert weights == [1.0] * len(tokens)


@by_format
def test_a_sampled_turn_parses_to_the_message_it_was_rendered_from(fmt: Format) -> None:
    renderer, _ = tool(fmt, merges=False)

    @quick
    @given(conversations(thinking=fmt.thinking))
    def check(messages: list[dict[str, Any]]) -> None:
        tokens, weights = renderer.build_supervised_example(messages, "last_assistant_message")
        said = [t for t, w in zip(tokens, weights, strict=True) if w]
        parsed = renderer.parse_response(said)
        assert parsed.end is TurnEnd.MARKER
        assert parsed.message["content"].strip() == messages[-1]["content"].strip()
        thought = messages[-1].get("reasoning_content") or ""
        assert (parsed.message.get("reasoning_content") or "").strip("\n") == thought.strip("\n")
        assert renderer.parse_response(said[:-1]).end is TurnEnd.CUT_OFF

    check()


@pytest.mark.row(48)
def test_look_alikes_that_the_normalizer_folds_stay_text() -> None:
    from tokenizers import normalizers

    tokenizer = byte_tokenizer("qwen3", "qwen3_instruct_2507")
    renderer = get_renderer("qwen3_instruct", tokenizer)
    control = renderer.get_stop_sequences()[0]
    renderer.encoder.backend.normalizer = normalizers.Replace("＜", "<")
    try:
        tokens = renderer.build_generation_prompt([{"role": "user", "content": "＜think>"}]).to_ints()
    finally:
        renderer.encoder.backend.normalizer = None
    assert tokenizer.convert_tokens_to_ids("<think>") not in tokens
    assert tokens.count(control) == 1


@pytest.mark.row(44)
def test_role_colon() -> None:
    tokenizer = merging_tokenizer("llama", "llama3")
    renderer = get_renderer("role_colon", tokenizer)
    tokens, weights = renderer.build_supervised_example(CONVERSATION[:5])
    assert tokenizer.decode(tokens) == (
        "<|begin_of_text|>System: S\n\nUser: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant: A2\n\nUser:"
    )
    said = tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w])
    assert said == " A1\n\nUser: A2\n\nUser:"
    prompt = renderer.build_generation_prompt(CONVERSATION[:4]).to_ints()
    assert tokens[: len(prompt)] == prompt
    assert renderer.get_stop_sequences() == ["\n\nUser:"]
    parsed = renderer.parse_response(tokens[len(prompt) :])
    assert (parsed.message["content"], parsed.end) == ("A2", TurnEnd.MARKER)


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


def test_prefill_goes_on_after_the_prompt() -> None:
    for fmt in FORMATS:
        renderer, tokenizer = tool(fmt)
        plain = renderer.build_generation_prompt(CONVERSATION[:2]).to_ints()
        begun = renderer.build_generation_prompt(CONVERSATION[:2], prefill="Well").to_ints()
        assert begun[: len(plain)] == plain
        assert tokenizer.decode(begun[len(plain) :]) == "Well"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "messages: got []"),
        ("hi", "messages: got 'hi'"),
        ([{"role": "bot", "content": "x"}], "messages[0].role: got 'bot', expected one of system"),
        ([{"role": "user", "content": 3}], "messages[0].content: got 3"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0]: got {'type': 'image'}"),
        ([{"role": "user", "content": "q", "trainable": True}], "messages[0].trainable: got True, expected none"),
        ([{"role": "assistant", "content": "q", "reasoning_content": "r"}], "messages[0].reasoning_content: got 'r'"),
        ([{"role": "tool", "content": "q"}], "messages[0].role: got 'tool', expected no tools"),
    ],
)
def test_bad_conversations_are_refused_with_their_place(messages: Any, expected: str) -> None:
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    with pytest.raises(UserError) as error:
        renderer.build_supervised_example(messages)
    assert str(error.value).startswith(expected)


def test_unknown_names_and_foreign_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean 'qwen3_instruct'"):
        get_renderer("qwen3_instrct", byte_tokenizer("qwen3", "qwen3"))
    with pytest.raises(UserError, match=r"no token '<\|eot_id\|>'.*llama3 family"):
        get_renderer("llama3", byte_tokenizer("qwen3", "qwen3"))
    with pytest.raises(UserError, match="train_on_what: got 'all', expected one of last_assistant_message"):
        get_renderer("qwen3", byte_tokenizer("qwen3", "qwen3")).build_supervised_example(CONVERSATION, "all")


@pytest.mark.row(50)
def test_a_template_without_an_end_marker_or_that_refuses_says_so() -> None:
    tokenizer = make_tokenizer("qwen3")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(UserError, match=r"chat_template: got 'no control token after an answer'"):
        get_renderer("chat_template", tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    renderer = get_renderer("chat_template", tokenizer)
    with pytest.raises(UserError, match=r"refuses the conversation: no system role"):
        renderer.build_supervised_example(CONVERSATION)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"'role_colon' needs none"):
        get_renderer("chat_template", tokenizer)


@pytest.mark.row(50)
def test_tools_go_through_the_tokenizers_own_template() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2<|im_end|>"},
        {"role": "assistant", "content": "It is 2."},
    ]
    tokens, weights = get_renderer("chat_template", tokenizer).build_supervised_example(messages)
    assert tokenizer.decode(tokens) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokens.count(tokenizer.convert_tokens_to_ids("<tool_call>")) == 1
    assert tokens.count(tokenizer.eos_token_id) == 4
    said = tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w])
    assert said.startswith('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>')
    assert said.endswith("It is 2.<|im_end|>")


@pytest.mark.row(50)
@pytest.mark.parametrize("name", ["tinsmith_tiny", "chat_template"])
def test_the_sdks_tokenizer_serves_as_well_as_that_of_transformers(name: str) -> None:
    ours = get_renderer(name, get_tokenizer(str(models.path())))
    theirs = get_renderer(name, AutoTokenizer.from_pretrained(models.path()))
    assert ours.build_supervised_example(CONVERSATION) == theirs.build_supervised_example(CONVERSATION)
    assert ours.get_stop_sequences() == theirs.get_stop_sequences()
