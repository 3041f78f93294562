"""`apply_chat_template` does as that of `transformers`, or refuses by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.cookbook.renderers.generated import TEMPLATES, generated_tokenizer
from tests.support.examples import examples
from tinsmith import UserError, get_tokenizer
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.tokenizer.tokenizer_sources import read_folder
from tinsmith.server.store.tokenizer_files import TokenizerFiles

quick = examples(15)
CHAT = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": " hi "}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
SHOWING = (
    "{% for d in documents or [] %}{{ d.title }}{% endfor %}{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}{{ m.content }}|{% endfor %}{{ x }}{{ add_generation_prompt }}"
)
DEFAULT, TOOL_USE = "plain {{ messages[0].content }}", "tools {{ messages[0].content }} {{ tools | length }}"


def pair(template: Any, folder: Path) -> tuple[Tokenizer, Any]:
    generated_tokenizer("prepend", "bare").save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": template, "model_max_length": 512})
    )
    return get_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["prepend", "metaspace_first", "byte_level"])
def test_one_conversation_and_several(kind: str) -> None:
    contents = st.text("ab \n日", min_size=1, max_size=5)
    chats = st.lists(contents, min_size=1, max_size=4).map(
        lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    )

    @quick
    @given(st.lists(chats, min_size=1, max_size=3), st.sampled_from(list(TEMPLATES)), st.booleans(), st.booleans())
    def check(several: list[Any], template: str, prompt: bool, goes_on: bool) -> None:
        theirs = generated_tokenizer(kind, template)
        ours = Tokenizer(theirs.backend_tokenizer, theirs.init_kwargs, theirs.chat_template)
        options = {"continue_final_message": True} if goes_on else {"add_generation_prompt": prompt}
        for given_chats in (several, several[0], [tuple(several[0])]):
            text = attempt(lambda c=given_chats: theirs.apply_chat_template(c, tokenize=False, **options))
            assert attempt(lambda c=given_chats: ours.apply_chat_template(c, tokenize=False, **options)) == text
            if text is not None:
                ids = theirs.apply_chat_template(given_chats, **options)["input_ids"]
                assert ours.apply_chat_template(given_chats, **options) == ids
                assert ours.apply_chat_template(given_chats, return_dict=True, **options).input_ids == ids

    check()


def attempt(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        # Ours are of one kind.
        assert isinstance(error, UserError) or not type(error).__module__.startswith("tinsmith")
        return None


@pytest.mark.parametrize(
    "options",
    [
        {"documents": [{"title": "T", "text": "x"}]},
        {"tools": [TOOL]},
        {"tools": []},
        {"x": 5},
        {"add_generation_prompt": True},
        {"continue_final_message": True},
        {"continue_final_message": "content"},
        {"chat_template": "{{ messages[0].content }}{{ bos_token }}"},
        {"padding": False, "truncation": False, "max_length": None, "return_tensors": None, "tokenizer_kwargs": {}},
    ],
)
def test_options(options: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = pair(SHOWING, tmp_path)
    parts = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "an answer"}]
    for chat in (CHAT, parts):
        text = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert ours.apply_chat_template(chat, tokenize=False, **options) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": True}, r"padding: got True, expected none: ids are returned as lists"),
        ({"truncation": True}, r"truncation: got True"),
        ({"max_length": 5}, r"max_length: got 5, expected none: cut the ids yourself"),
        ({"return_tensors": "pt"}, r"return_tensors: got 'pt'"),
        ({"return_assistant_tokens_mask": True}, r"expected none: a renderer's build_supervised_example"),
        ({"tokenizer_kwargs": {"padding": True}}, r"tokenizer_kwargs: got \{'padding': True\}"),
        ({"tools": [len]}, r"tools\[0\]: got <built-in function len>, expected a JSON schema"),
        ({"tools": TOOL}, r"tools: got .*expected a list of JSON schemas"),
        ({"continue_final_message": True, "add_generation_prompt": True}, r"continue_final_message: got True"),
        ({"continue_final_message": "thoughts"}, r"continue_final_message: thoughts: got None"),
    ],
)
def test_what_is_not_done_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    ours, _ = pair(SHOWING, tmp_path)
    with pytest.raises(UserError, match=message):
        ours.apply_chat_template(CHAT, **options)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], r"conversation: got \[\], expected at least one message"),
        ("hello", r"conversation: got 'hello', expected a list of messages"),
        (CHAT[0], r"conversation: got .*expected a list of messages"),
        ([CHAT, []], r"conversation\[1\]: got \[\], expected at least one message"),
        ([CHAT, CHAT[0]], r"conversation\[1\]: got .*, expected a list of messages, as the first one is"),
        (["hello"], r"conversation\[0\]: got 'hello', expected a message"),
        ([*CHAT, CHAT], r"conversation\[2\]: got .*, expected a message"),
    ],
)
def test_no_conversation(conversation: Any, message: str, tmp_path: Path) -> None:
    ours, _ = pair(SHOWING, tmp_path)
    with pytest.raises(UserError, match=message):
        ours.apply_chat_template(conversation)


def test_faults_within_a_template_are_the_template_s(tmp_path: Path) -> None:
    ours, _ = pair("{{ messages[0].content + 1 }}", tmp_path)
    with pytest.raises(UserError, match=r"chat template: can only concatenate str"):
        ours.apply_chat_template(CHAT)
    ours, _ = pair("{{ messages[0].content | trim }}", tmp_path)
    with pytest.raises(UserError, match=r"messages\[1\]\.content: got ' hi ', expected a text that the chat template"):
        ours.apply_chat_template(CHAT, continue_final_message=True)


NAMED = [{"name": "default", "template": DEFAULT}, {"name": "tool_use", "template": TOOL_USE}]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tools": [TOOL]},
    {"tools": []},
    {"chat_template": "tool_use", "tools": [TOOL]},
    {"chat_template": "default", "tools": [TOOL]},
    {"chat_template": "other {{ messages[0].content }}"},
]


@pytest.mark.parametrize("named", [NAMED, NAMED[:1], NAMED[1:], [*NAMED, {"name": "rag", "template": "r"}]])
def test_named_templates(named: list[dict[str, str]], tmp_path: Path) -> None:
    ours, theirs = pair(named, tmp_path)
    assert ours.chat_template == theirs.chat_template
    for options in OPTIONS:
        expected = attempt(lambda o=options: theirs.apply_chat_template(CHAT, tokenize=False, **o))
        assert attempt(lambda o=options: ours.apply_chat_template(CHAT, tokenize=False, **o)) == expected
    if len(named) == 1 and named[0]["name"] == "tool_use":
        with pytest.raises(UserError, match=r"chat_template: got None, expected the name of one of several: tool_use"):
            ours.apply_chat_template(CHAT)


@pytest.mark.parametrize("with_default", [True, False])
def test_templates_in_files_of_their_own(with_default: bool, tmp_path: Path) -> None:
    """They come before the config's, and a service gives them too."""
    pair(NAMED, tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(
        TOOL_USE.upper().replace("TOOLS |", "tools |")
    )
    if with_default:
        (tmp_path / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    ours, theirs = get_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.chat_template == theirs.chat_template
    served = json.loads(TokenizerFiles().get(tmp_path)[0])
    assert served["chat_template"] == theirs.chat_template
    bundle = read_folder(tmp_path)
    assert served["tokenizer_json"] == bundle.tokenizer_json
    assert served["tokenizer_config"] == bundle.tokenizer_config
