"""A renderer of one's own: the documented one, named as `module:Class`; and the developer, who speaks as the system."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.renderers.generated import TEMPLATES, generated_tokenizer
from tinsmith import get_tokenizer
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.types.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "renderers.md"
CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "hi <|end|>"},
    {"role": "assistant", "content": " hello"},
    {"role": "user", "content": "and"},
    {"role": "assistant", "content": "bye"},
]


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The class of the page, in a module in the folder that we are in."""
    snippet = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class " in code)
    (tmp_path / "my_format.py").write_text(snippet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_format", raising=False)
    return "my_format:Headings"


@pytest.mark.parametrize("kind", ["byte_level", "prepend", "metaspace_first"])
def test_the_documented_renderer(documented: str, kind: str) -> None:
    tokenizer = generated_tokenizer(kind, "bare")
    renderer = get_renderer(documented, tokenizer)
    assert renderer.name == documented
    tokens, weights = renderer.build_supervised_example(CHAT)
    text = "".join(f"### {m['role']}\n{m['content']}<|end|>\n" for m in CHAT)
    assert (
        tokenizer.decode(tokens).replace(" ", "")
        == text.replace("<|end|>\n###", "<|end|>###").replace(" ", "").rstrip()
    )
    said = [token for token, weight in zip(tokens, weights, strict=True) if weight]
    assert tokenizer.decode(said).replace(" ", "") == "hello<|end|>bye<|end|>"
    prompt = renderer.build_generation_prompt(CHAT[:-1]).to_ints()
    assert tokens[: len(prompt)] == prompt
    message, end = renderer.parse_response(tokens[len(prompt) :])
    assert (message["content"], end.is_clean) == ("bye", True)
    first = renderer.build_generation_prompt(CHAT[:2]).to_ints()
    assert renderer.parse_response(said[: -len(tokens) + len(prompt)]).message["content"] == " hello"
    assert tokens[: len(first)] == first
    assert renderer.has_extension_property


def test_its_class_is_short() -> None:
    snippet = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class " in code)
    assert sum(bool(line.strip()) for line in snippet.partition("class ")[2].splitlines()) <= 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:X",
            r"got 'no_such_module:X', expected module:Class, of a module that can be imported \(No mod",
        ),
        ("my_format:Heading", r"got 'my_format:Heading', expected module:Class; my_format has Headings"),
        ("my_format:", r"expected module:Class; my_format has Headings"),
        (":Headings", r"expected module:Class, of a module that can be imported"),
        ("builtins:dict", r"expected module:Class of a subclass of Renderer"),
    ],
)
def test_a_name_that_leads_nowhere(documented: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_renderer(name, generated_tokenizer("byte_level", "bare"))


DEVELOPER = [{"role": "developer", "content": "D"}, *CHAT[1:]]


@pytest.mark.parametrize("name", ["tinsmith_tiny", "role_colon"])
def test_a_developer_speaks_as_the_system(name: str) -> None:
    renderer = get_renderer(name, get_tokenizer("tinsmith-tiny"))
    system = [{"role": "system", "content": "D"}, *CHAT[1:]]
    for what in ("all_assistant_messages", "all_user_and_system_messages"):
        assert renderer.build_supervised_example(DEVELOPER, what) == renderer.build_supervised_example(system, what)


def test_a_template_has_a_developer_where_it_names_one() -> None:
    tokenizer = generated_tokenizer("byte_level", "zephyr")
    renderer = get_renderer("chat_template", tokenizer)
    text = tokenizer.decode(renderer.build_generation_prompt(DEVELOPER[:2]).to_ints())
    assert text.startswith("<|system|>\nD</s>")
    known = TEMPLATES["zephyr"].replace("{{ m.role }}", "{{ 'user' if m.role == 'developer' else m.role }}")
    other: Any = pickle.loads(pickle.dumps(tokenizer))
    other.chat_template = known
    renderer = get_renderer("chat_template", other)
    assert tokenizer.decode(renderer.build_generation_prompt(DEVELOPER[:2]).to_ints()).startswith("<|user|>\nD</s>")
