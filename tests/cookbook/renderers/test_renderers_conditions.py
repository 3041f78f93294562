"""Templates with conditions: ids of nine letters, calls beside tools alone, a system turn that must or comes last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.cookbook.renderers.generated import TEMPLATES, generated_tokenizer
from tinsmith.cookbook.renderers import Renderer, get_renderer
from tinsmith.types.errors import UserError

MARKS = "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS]"
MISTRAL = (
    "{{ bos_token }}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% if tools and m == asked[-1] %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]"
    "{% endif %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{% if not c.id or c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    '{{ (c.function | tojson)[:-1] }}, "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]'
    "{{ eos_token }}{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% elif m.role == 'tool' %}"
    "{% if not m.tool_call_id or m.tool_call_id | length != 9 %}{{ raise_exception('no id') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]{% endif %}'
    "{% endfor %}"
)
# Shows calls where tools are defined, and an object with the id first.
BESIDE_TOOLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}</s>{% endif %}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.tool_calls and tools %}{% for c in m.tool_calls %}<tool_call>"
    "{{ {'id': c.id, 'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SYSTEM_LAST = (
    "{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'system' %}<|system|>\n{{ m.content }}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('where is it?') }}{% endif %}" + TEMPLATES["zephyr"]
)
PROPERTY = {"a": {"type": "string", "description": "d"}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "d", "parameters": {"type": "object", "properties": PROPERTY}},
    }
]
KINDS = pytest.mark.parametrize("kind", ["byte_level", "prepend", "metaspace_first"])


def renderer_of(kind: str, template: str) -> Renderer:
    backend = generated_tokenizer(kind, "bare").backend_tokenizer
    backend.add_special_tokens(
        [AddedToken(mark, normalized=False) for mark in (*MARKS.split(), "<tool_call>", "</tool_call>", "<|tool|>")]
    )
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return get_renderer(
        "chat_template", PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **named)
    )


def call(number: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [call("abcdefghi", "add", a="x"), call("zbcdefghi", "sub", b=[1, {"c": 2}])],
}
ROUND = [
    {"role": "user", "content": "hello"},
    CALLS,
    {"role": "tool", "content": "5", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "so 5"},
]


def learned(renderer: Renderer, messages: list[dict[str, Any]], what: str, **more: Any) -> str:
    tokens, weights = renderer.build_supervised_example(messages, what, **more)
    said = [token for token, weight in zip(tokens, weights, strict=True) if weight]
    return renderer.tokenizer.decode(said).replace(" ", "")


@KINDS
@pytest.mark.parametrize("template", [MISTRAL, BESIDE_TOOLS], ids=["nine letters", "beside tools"])
def test_calls_are_learned_and_read_back(template: str, kind: str) -> None:
    renderer = renderer_of(kind, template)
    renderer.check(ROUND, TOOLS)
    for more in ([], [{"role": "user", "content": "what"}, {"role": "assistant", "content": "hi"}]):
        said = learned(renderer, ROUND[:2] + more, "all_assistant_messages", tools=TOOLS)
        assert all(json.dumps(part).replace(" ", "") in said for part in ("abcdefghi", "add", {"b": [1, {"c": 2}]}))
        assert said.startswith("[TOOL_CALLS]" if template == MISTRAL else "<tool_call>")
        assert said.count("</s>") == 1 + len(more) // 2
    tokens, weights = renderer.build_supervised_example(ROUND[:2], tools=TOOLS)
    message, end = renderer.parse_response([token for token, weight in zip(tokens, weights, strict=True) if weight])
    assert end.is_clean
    assert message["tool_calls"] == CALLS["tool_calls"]
    assert message["content"] == ""
    plain = renderer.tokenizer.encode('{"name": "add", "arguments": {}}</s>', add_special_tokens=False)
    assert "tool_calls" not in renderer.parse_response(plain).message


def test_what_a_condition_forbids_is_said() -> None:
    renderer = renderer_of("prepend", MISTRAL)
    with pytest.raises(UserError, match=r"refuses the conversation: .*alphanumeric strings with length 9"):
        renderer.build_supervised_example([ROUND[0], CALLS | {"tool_calls": [call("short", "add")]}], tools=TOOLS)
    renderer = renderer_of("prepend", BESIDE_TOOLS)
    with pytest.raises(UserError, match=r"messages\[1\]\.tool_calls: got \['add', 'sub'\], expected tools beside them"):
        renderer.check(ROUND)


@KINDS
def test_a_system_turn_that_comes_last_has_no_weight(kind: str) -> None:
    renderer = renderer_of(kind, SYSTEM_LAST)
    chat = [
        {"role": "system", "content": "is"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "what"},
        {"role": "assistant", "content": "there"},
    ]
    for messages in (chat, [*chat[1:], chat[0]]):
        assert learned(renderer, messages, "all_assistant_messages") == "hi</s>there</s>"
        assert learned(renderer, messages, "last_assistant_message") == "there</s>"
        assert learned(renderer, messages, "all_user_and_system_messages") == "hello</s>what</s>is</s>"


@KINDS
def test_a_system_turn_that_must_come(kind: str) -> None:
    renderer = renderer_of(kind, SYSTEM_FIRST)
    messages = [{"role": "system", "content": "is"}, {"role": "user", "content": "hello"}]
    assert learned(renderer, [*messages, {"role": "assistant", "content": "hi"}], "all_assistant_messages") == "hi</s>"
    with pytest.raises(UserError, match=r"refuses the conversation: .*where is it\?"):
        renderer.build_generation_prompt(messages[1:])


def test_tools_choose_the_template_of_several() -> None:
    renderer = renderer_of("prepend", TEMPLATES["zephyr"])
    renderer.tokenizer.chat_template = {"default": TEMPLATES["marked"], "tool_use": BESIDE_TOOLS}
    renderer = get_renderer("chat_template", renderer.tokenizer)
    assert learned(renderer, ROUND, "last_assistant_message", tools=TOOLS) == "so5</s>"
    assert learned(renderer, [ROUND[0], ROUND[3]], "last_assistant_message") == "so5</s>"
    with pytest.raises(UserError, match=r"expected tools beside them"):
        renderer.check(ROUND)
