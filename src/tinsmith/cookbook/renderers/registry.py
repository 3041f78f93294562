"""Renderers by name: each is a builder and its options."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers.base import Renderer
from tinsmith.cookbook.renderers.families.chatml import ChatMLRenderer, Qwen25Renderer
from tinsmith.cookbook.renderers.families.deepseek_v3 import DeepSeekV3Renderer, DeepSeekV31Renderer
from tinsmith.cookbook.renderers.families.gpt_oss import GptOssRenderer
from tinsmith.cookbook.renderers.families.kimi_k2 import KimiK2Renderer
from tinsmith.cookbook.renderers.families.llama3 import Llama3Renderer
from tinsmith.cookbook.renderers.families.llama3_1 import Llama31Renderer, Llama32Renderer
from tinsmith.cookbook.renderers.families.qwen3 import Qwen3Renderer
from tinsmith.cookbook.renderers.families.qwen3_5 import Qwen35Renderer
from tinsmith.cookbook.renderers.families.role_colon import RoleColonRenderer
from tinsmith.cookbook.renderers.families.tiny import TinyRenderer
from tinsmith.cookbook.renderers.template.template_renderer import TemplateRenderer
from tinsmith.types.errors import invalid

RendererBuilder = Callable[..., Renderer]
"""Called as `builder(tokenizer, name, **options)`; a subclass of `Renderer` is one."""


class RendererEntry(NamedTuple):
    """A name's builder, and the options that make the builder's renderer that of the name.

    Attributes:
        builder: makes the renderer.
        options: of the builder.
        verified: whether the tests hold the published template against it.
    """

    builder: RendererBuilder
    options: dict[str, Any]
    verified: bool = True


_ENTRIES: dict[str, RendererEntry] = {
    "chat_template": RendererEntry(TemplateRenderer, {}),
    "deepseek_v3": RendererEntry(DeepSeekV3Renderer, {}),
    "deepseek_v3_1": RendererEntry(DeepSeekV31Renderer, {}, verified=False),
    "deepseek_v3_1_thinking": RendererEntry(DeepSeekV31Renderer, {"thinking": True}, verified=False),
    "deepseek_v3_thinking": RendererEntry(DeepSeekV3Renderer, {"thinking": True}),
    "gpt_oss_high_reasoning": RendererEntry(GptOssRenderer, {"reasoning": "high"}),
    "gpt_oss_low_reasoning": RendererEntry(GptOssRenderer, {"reasoning": "low"}),
    "gpt_oss_medium_reasoning": RendererEntry(GptOssRenderer, {}),
    "gpt_oss_no_sysprompt": RendererEntry(GptOssRenderer, {"reasoning": None}),
    "kimi_k2": RendererEntry(KimiK2Renderer, {}, verified=False),
    "kimi_k2_instruct": RendererEntry(KimiK2Renderer, {"thinking": False}, verified=False),
    "llama3": RendererEntry(Llama3Renderer, {}),
    "llama3_1": RendererEntry(Llama31Renderer, {}),
    "llama3_2": RendererEntry(Llama32Renderer, {}),
    "qwen2_5": RendererEntry(Qwen25Renderer, {}),
    "qwen3": RendererEntry(Qwen3Renderer, {}),
    "qwen3_5": RendererEntry(Qwen35Renderer, {}),
    "qwen3_5_disable_thinking": RendererEntry(Qwen35Renderer, {"thinking": False}),
    "qwen3_5_keep_thinking": RendererEntry(Qwen35Renderer, {"keep_thinking": True}),
    "qwen3_6": RendererEntry(Qwen35Renderer, {"json_values": True}),
    "qwen3_6_disable_thinking": RendererEntry(Qwen35Renderer, {"json_values": True, "thinking": False}),
    "qwen3_6_keep_thinking": RendererEntry(Qwen35Renderer, {"json_values": True, "keep_thinking": True}),
    "qwen3_disable_thinking": RendererEntry(Qwen3Renderer, {"thinking": False}),
    "qwen3_instruct": RendererEntry(ChatMLRenderer, {}),
    "qwen3_keep_thinking": RendererEntry(Qwen3Renderer, {"keep_thinking": True}),
    "role_colon": RendererEntry(RoleColonRenderer, {}),
    "tinsmith_tiny": RendererEntry(TinyRenderer, {}),
}


def register_renderer(name: str, builder: RendererBuilder, **options: Any) -> None:
    """Make a renderer known to `get_renderer`.

    Args:
        name: a name that is free.
        builder: makes the renderer, called as `builder(tokenizer, name, **options)`.
        options: the builder's, for this name; `get_renderer` can give others.

    Raises:
        UserError: the name is taken.
    """
    if name in _ENTRIES:
        raise invalid("name", name, "a name that no renderer has yet")
    _ENTRIES[name] = RendererEntry(builder, options)


def renderer_names() -> list[str]:
    """Return the names that `get_renderer` knows."""
    return sorted(_ENTRIES)


def get_renderer(name: str, tokenizer: Any, **options: Any) -> Renderer:
    """Make a renderer.

    Args:
        name: e.g. of `model_info.get_recommended_renderer_name(model)`; or `module:Class`, a builder of your own.
        tokenizer: of the SDK (`tinsmith.get_tokenizer`) or a fast one of `transformers`.
        options: of the renderer, e.g. `keep_thinking=True`; those that the name implies can be overridden.

    Raises:
        UserError: no such renderer or option, or the tokenizer lacks a control token of its format.
    """
    if not isinstance(name, str):
        raise invalid("renderer name", name, "a string")
    entry = RendererEntry(_load(name), {}) if ":" in name else _ENTRIES.get(name)
    if entry is None:
        near = get_close_matches(name, _ENTRIES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise invalid("renderer name", name, f"one of {', '.join(renderer_names())}{hint}")
    merged = entry.options | options
    parameters = inspect.signature(entry.builder).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option, value in merged.items():
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise invalid("renderer option", option, f"one of {', '.join(known) or '(none)'} for {name!r}")
        if isinstance(known.get(option), bool) and not isinstance(value, bool):
            raise invalid(option, value, "true or false")
    if not entry.verified:
        warn_once(
            f"renderer {name}",
            f"renderer {name!r}: written from what is public of the format, no test holds the published template "
            "against it. Compare a prompt with tokenizer.apply_chat_template; renderer 'chat_template' renders that "
            "template itself",
        )
    renderer = entry.builder(tokenizer, name, **merged)
    if not isinstance(renderer, Renderer):
        raise invalid("renderer name", name, f"one whose builder makes a Renderer, not a {type(renderer).__name__}")
    return renderer


def _load(name: str) -> RendererBuilder:
    """Return the builder that `module:Class` names; the module may lie in the folder that we are in.

    Raises:
        UserError: there is no such module or builder.
    """
    module_name, _, attribute = name.partition(":")
    # As `python -m` has it; an installed command has it not.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise invalid("renderer name", name, f"module:Class, of a module that can be imported ({error})") from error
    builder: Any = getattr(module, attribute, None)
    if not callable(builder):
        there = [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module_name
        ]
        raise invalid("renderer name", name, f"module:Class; {module_name} has {', '.join(there) or 'no class'}")
    if inspect.isclass(builder) and not issubclass(builder, Renderer):
        raise invalid("renderer name", name, "module:Class of a subclass of Renderer")
    return cast("RendererBuilder", builder)
