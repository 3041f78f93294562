"""The families of renderers under test: each with the published template that it must equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.cookbook.renderers.formats import byte_tokenizer, conversations, merging_tokenizer, plain_text, tool_specs
from tests.support.checkpoints import make_tokenizer
from tests.support.examples import examples
from tinsmith import models
from tinsmith.cookbook.renderers import Renderer, get_renderer


@dataclass(frozen=True)
class Format:
    """A renderer, the published template it must equal, and how that is called.

    Attributes:
        renderer: name.
        family: of the tokenizer.
        template: of the `trl` wheel; "support" is that of the test tokenizers, empty the tokenizer's own.
        options: of the renderer.
        template_options: of the template, always.
        prompt_options: of the template where a generation prompt is built.
        thinking: whether answers may hold thinking.
        calls: most calls in a message; 0 where the format has no tools.
        talks_beside_calls: whether a message of calls may hold text.
    """

    renderer: str
    family: str
    template: str
    options: dict[str, Any] = field(default_factory=dict)
    template_options: dict[str, Any] = field(default_factory=dict)
    prompt_options: dict[str, Any] = field(default_factory=dict)
    thinking: bool = False
    calls: int = 0
    talks_beside_calls: bool = True

    def __str__(self) -> str:
        return "-".join([self.renderer, self.template or "tiny", *self.options])

    def tokenizer(self, merges: bool = True) -> Any:
        if self.family == "tiny":
            return AutoTokenizer.from_pretrained(models.path())
        if self.template == "support":
            return make_tokenizer(self.family)
        return (merging_tokenizer if merges else byte_tokenizer)(self.family, self.template)

    def renderer_and_tokenizer(self, merges: bool = True) -> tuple[Renderer, Any]:
        tokenizer = self.tokenizer(merges)
        return get_renderer(self.renderer, tokenizer, **self.options), tokenizer

    def conversations(self, text: st.SearchStrategy[str] = plain_text) -> st.SearchStrategy[list[dict[str, Any]]]:
        return conversations(text, self.thinking, self.calls, self.talks_beside_calls)

    def tools(self, text: st.SearchStrategy[str] = plain_text) -> st.SearchStrategy[list[dict[str, Any]] | None]:
        return st.one_of(st.none(), tool_specs(text)) if self.calls else st.none()

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        options = self.template_options | (self.prompt_options if prompt else {})
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, tools=tools, **options
        )

    def template_tokens(
        self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None
    ) -> list[int]:
        return tokenizer.encode(self.template_text(tokenizer, messages, prompt, tools), add_special_tokens=False)


TINY = Format("tinsmith_tiny", "tiny", "", thinking=True, calls=2)
LLAMA3 = Format("llama3", "llama", "llama3")
LLAMA31 = Format("llama3_1", "llama", "llama3_1", calls=1, talks_beside_calls=False)
QWEN25 = Format("qwen2_5", "qwen3", "qwen2_5", calls=2)
QWEN3 = Format("qwen3", "qwen3", "qwen3", thinking=True, calls=2)
QWEN3_OFF = Format("qwen3_disable_thinking", "qwen3", "qwen3", prompt_options={"enable_thinking": False}, calls=2)
QWEN3_INSTRUCT = Format("qwen3_instruct", "qwen3", "qwen3_instruct_2507", calls=2)
OWN = [
    TINY,
    LLAMA3,
    LLAMA31,
    Format(
        "llama3_1",
        "llama",
        "llama3_1",
        options={"tools_in_user_message": False, "date_string": "1 Jan 2031"},
        template_options={"tools_in_user_message": False, "date_string": "1 Jan 2031"},
        calls=1,
        talks_beside_calls=False,
    ),
    Format(
        "llama3_1",
        "llama",
        "llama3_1",
        options={"builtin_tools": ["brave_search", "code_interpreter"]},
        template_options={"builtin_tools": ["brave_search", "code_interpreter"]},
        calls=1,
        talks_beside_calls=False,
    ),
    Format("llama3_2", "llama", "llama3_2", calls=1, talks_beside_calls=False),
    QWEN25,
    QWEN3,
    QWEN3_OFF,
    QWEN3_INSTRUCT,
]
GENERIC = [
    Format("chat_template", "llama", "llama3"),
    Format("chat_template", "qwen3", "qwen3", thinking=True),
    Format("chat_template", "tiny", "", thinking=True),
    Format("chat_template", "qwen3", "support"),
]
FORMATS = OWN + GENERIC
by_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
by_own_format = pytest.mark.parametrize("fmt", OWN, ids=str)
quick = examples(25)
