"""Bad conversations, tools and options are refused with field, value and what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cookbook.renderers.families import LLAMA3, LLAMA31, QWEN3, QWEN3_INSTRUCT, TINY, Format
from tests.cookbook.renderers.formats import byte_tokenizer
from tests.support.checkpoints import make_tokenizer
from tinsmith.cookbook.renderers import Renderer, get_renderer, register_renderer, registry
from tinsmith.cookbook.renderers.families.chatml import ChatMLRenderer
from tinsmith.types.errors import UserError

QUESTION = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}


def call(arguments: Any = None, name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "arguments": {} if arguments is None else arguments},
    } | fields


def calling(*calls: Any, content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}} | fields}


def refusal(renderer: Renderer, messages: Any, **options: Any) -> str:
    """Return the error of `check`, which rendering has too."""
    with pytest.raises(UserError) as checked:
        renderer.check(messages, options.get("tools"), train_on_what=options.get("train_on_what"))
    with pytest.raises(UserError) as rendered:
        renderer.build_supervised_example(messages, **options)
    assert str(checked.value) == str(rendered.value)
    return str(checked.value)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "messages: got [], expected at least one message"),
        ("hi", "messages: got 'hi'"),
        (["hi"], "messages[0]: got 'hi'"),
        ([{"role": "bot", "content": "x"}], "messages[0].role: got 'bot', expected one of system"),
        ([{"content": "x"}], "messages[0].role: got None, expected one of system"),
        ([{"role": "user", "content": 3}], "messages[0].content: got 3"),
        ([{"role": "user"}], "messages[0].content: got None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0]: got {'type': 'image'}"),
        ([{"role": "assistant", "content": "q", "reasoning_content": 2}], "messages[0].reasoning_content: got 2"),
        ([{"role": "user", "content": "q", "trainable": 1}], "messages[0].trainable: got 1, expected true or false"),
        ([{"role": "tool", "content": "q", "tool_call_id": 3}], "messages[0].tool_call_id: got 3, expected a string"),
        ([QUESTION | {"tool_calls": [call()]}], "messages[0].tool_calls: got [{"),
        ([QUESTION | {"tokens": [1]}], "messages[0].tokens: got [1], expected none in a message of role 'user'"),
        ([ANSWER | {"tokens": [1, -1]}], "messages[0].tokens: got [1, -1], expected a list of token ids"),
        ([ANSWER | {"tokens": "ab"}], "messages[0].tokens: got 'ab', expected a list of token ids"),
        (
            [ANSWER | {"unparsed_tool_calls": [{"text": "x", "reason": "y"}]}],
            "messages[0].unparsed_tool_calls: got [{'text': 'x', 'reason': 'y'}], expected the message's sampled ids",
        ),
        ([calling(3)], "messages[0].tool_calls[0]: got 3, expected an object"),
        ([ANSWER | {"tool_calls": 3}], "messages[0].tool_calls: got 3, expected a list of calls"),
        ([calling({"name": "f", "arguments": {}})], "messages[0].tool_calls[0].function: got None, expected an object"),
        ([calling(call(type="x"))], "messages[0].tool_calls[0].type: got 'x', expected 'function'"),
        ([calling(call(id=3))], "messages[0].tool_calls[0].id: got 3, expected a string"),
        ([calling(call(name=""))], "messages[0].tool_calls[0].function.name: got '', expected the name"),
        ([calling(call(), call("{"))], "messages[0].tool_calls[1].function.arguments: got '{', expected an object"),
        ([calling(call("[1]"))], "messages[0].tool_calls[0].function.arguments: got '[1]', expected an object"),
        (
            [calling(call({"a": {1}}))],
            "messages[0].tool_calls[0].function.arguments: got {'a': {1}}, expected something",
        ),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content: got '\\ud800', expected Unicode text (half of"),
        (
            [ANSWER | {"reasoning_content": "a\udfff"}],
            "messages[0].reasoning_content: got 'a\\udfff', expected Unicode",
        ),
        (
            [calling(call({"a": "\ud800"}))],
            'messages[0].tool_calls[0].function.arguments: got \'{"a": "\\ud800"}\'',
        ),
    ],
)
def test_bad_messages(messages: Any, expected: str) -> None:
    renderer, _ = QWEN3_INSTRUCT.renderer_and_tokenizer(merges=False)
    assert refusal(renderer, messages).startswith(expected)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({}, "tools: got {}, expected a list of tool definitions"),
        ("f", "tools: got 'f', expected a list"),
        ([print], "tools[0]: got <built-in"),
        ([tool(), {"name": "f"}], "tools[1].function: got None, expected an object"),
        ([{"type": "x", "function": {"name": "f"}}], "tools[0].type: got 'x', expected 'function'"),
        ([tool(name=None)], "tools[0].function.name: got None"),
        ([tool(description=3)], "tools[0].function.description: got 3, expected a string"),
        ([tool(parameters=[])], "tools[0].function.parameters: got [], expected a JSON schema"),
        ([tool(parameters={"a": b""})], "tools[0]: got {"),
        ([tool(description="\ud800")], "tools[0]: got '{"),
    ],
)
def test_bad_tools(tools: Any, expected: str) -> None:
    renderer, _ = QWEN3_INSTRUCT.renderer_and_tokenizer(merges=False)
    assert refusal(renderer, [QUESTION, ANSWER], tools=tools).startswith(expected)
    with pytest.raises(UserError):
        renderer.build_generation_prompt([QUESTION], tools=tools)


@pytest.mark.parametrize(
    ("fmt", "messages", "tools", "expected"),
    [
        (LLAMA3, [QUESTION, ANSWER], [tool()], "tools: got ['f'], expected no tools: renderer 'llama3' has none"),
        (LLAMA3, [calling(call())], None, "messages[0].tool_calls: got ['f'], expected no tools"),
        (LLAMA3, [{"role": "tool", "content": "q"}], None, "messages[0].role: got 'tool', expected no tools"),
        (
            LLAMA3,
            [ANSWER | {"reasoning_content": "r"}],
            None,
            "messages[0].reasoning_content: got 'r', expected none: renderer 'llama3'",
        ),
        (QWEN3, [QUESTION | {"reasoning_content": "r"}], None, "messages[0].reasoning_content: got 'r'"),
        (LLAMA31, [ANSWER], [tool()], "messages[0].role: got 'assistant', expected 'user'"),
        (LLAMA31, [{"role": "system", "content": "S"}], [tool()], "messages[1].role: got None, expected 'user'"),
        (LLAMA31, [calling(call(), call())], None, "messages[0].tool_calls: got ['f', 'f'], expected one call"),
        (LLAMA31, [calling(call(), content="x")], None, "messages[0].content: got 'x', expected no text beside a call"),
        (
            TINY,
            [QUESTION, ANSWER],
            [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tools[0].function.description: got None, expected one",
        ),
    ],
)
def test_what_a_format_has_no_place_for(fmt: Format, messages: Any, tools: Any, expected: str) -> None:
    renderer, _ = fmt.renderer_and_tokenizer(merges=False)
    assert refusal(renderer, messages, tools=tools).startswith(expected)


@pytest.mark.parametrize("prefill", [3, "\ud800"])
def test_a_prefill_is_text(prefill: Any) -> None:
    renderer, _ = QWEN3.renderer_and_tokenizer(merges=False)
    with pytest.raises(UserError, match="prefill: got"):
        renderer.build_generation_prompt([QUESTION], prefill)
    with pytest.raises(UserError, match="prefill: got"):
        renderer.parse_response([1], prefill=prefill)


def test_arguments_of_built_in_tools_are_strings() -> None:
    renderer = get_renderer("llama3_1", LLAMA31.tokenizer(merges=False), builtin_tools=["f"])
    expected = "messages[0].tool_calls[0].function.arguments: got {'a': 1}, expected an object of strings"
    assert refusal(renderer, [calling(call({"a": 1}))]).startswith(expected)


@pytest.mark.row(42)
@pytest.mark.parametrize(
    ("what", "messages", "expected"),
    [
        ("all", [QUESTION, ANSWER], "train_on_what: got 'all', expected one of last_assistant_message"),
        (
            "all_assistant_messages",
            [QUESTION],
            "messages: got 'roles user', expected at least one message of the assis",
        ),
        (
            "last_assistant_message",
            [QUESTION],
            "messages: got 'roles user', expected at least one message of the assis",
        ),
        (
            "last_assistant_turn",
            [QUESTION, ANSWER, QUESTION],
            "messages: got 'roles user, assistant, user', expected a message of the assistant after the last",
        ),
        ("all_user_and_system_messages", [ANSWER], "messages: got 'roles assistant', expected at least one message of"),
        ("customized", [QUESTION, ANSWER], "messages[0].trainable: got None, expected true or false"),
        ("all_messages", [QUESTION | {"trainable": True}], "messages[0].trainable: got True, expected none with"),
    ],
)
def test_conversations_that_have_not_what_is_to_be_learned(what: str, messages: Any, expected: str) -> None:
    renderer, _ = QWEN3.renderer_and_tokenizer(merges=False)
    assert refusal(renderer, messages, train_on_what=what).startswith(expected)
    with pytest.raises(UserError) as error:
        renderer.build_supervised_examples(messages, what)
    assert str(error.value).startswith(expected)


def test_no_tools_and_an_empty_list_of_tools_are_the_same() -> None:
    for fmt in (LLAMA3, LLAMA31, QWEN3, TINY):
        renderer, _ = fmt.renderer_and_tokenizer(merges=False)
        none = renderer.build_supervised_example([QUESTION, ANSWER])
        assert renderer.build_supervised_example([QUESTION, ANSWER], tools=[]) == none


def test_unknown_names_options_and_foreign_tokenizers() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    with pytest.raises(UserError, match=r"renderer name: got 'qwen3_instrct'.*did you mean 'qwen3_instruct'"):
        get_renderer("qwen3_instrct", tokenizer)
    with pytest.raises(UserError, match=r"no token '<\|eot_id\|>'.*llama3 family"):
        get_renderer("llama3", tokenizer)
    with pytest.raises(UserError, match=r"option: got 'thinks', expected one of thinking, keep_thinking for 'qwen3'"):
        get_renderer("qwen3", tokenizer, thinks=True)
    with pytest.raises(UserError, match=r"option: got 'thinking', expected one of \(none\) for 'qwen3_instruct'"):
        get_renderer("qwen3_instruct", tokenizer, thinking=True)
    with pytest.raises(UserError, match=r"tokenizer: got 'object', expected tinsmith.get_tokenizer"):
        get_renderer("qwen3", object())


def test_a_renderer_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    class Shouting(ChatMLRenderer):
        def __init__(self, tokenizer: Any, name: str, *, loud: bool) -> None:
            super().__init__(tokenizer, name)
            self.loud = loud

    register_renderer("shouting", Shouting, loud=True)
    tokenizer = make_tokenizer("qwen3")
    renderer = get_renderer("shouting", tokenizer)
    assert (renderer.name, renderer.loud) == ("shouting", True)
    assert not get_renderer("shouting", tokenizer, loud=False).loud
    with pytest.raises(UserError, match="name: got 'shouting', expected a name that no renderer has yet"):
        register_renderer("shouting", Shouting, loud=True)
