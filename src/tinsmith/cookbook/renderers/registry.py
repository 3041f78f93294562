"""Renderers by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from tinsmith.cookbook.renderers.base import Renderer
from tinsmith.cookbook.renderers.chatml import ChatMLRenderer, Qwen3Renderer
from tinsmith.cookbook.renderers.llama3 import Llama3Renderer
from tinsmith.cookbook.renderers.role_colon import RoleColonRenderer
from tinsmith.cookbook.renderers.template import TemplateRenderer
from tinsmith.cookbook.renderers.tiny import TinyRenderer
from tinsmith.types.errors import invalid

RendererBuilder = Callable[[Any], Renderer]

_BUILDERS: dict[str, RendererBuilder] = {
    "chat_template": TemplateRenderer,
    "llama3": Llama3Renderer,
    "qwen2_5": ChatMLRenderer.qwen2_5,
    "qwen3": Qwen3Renderer,
    "qwen3_disable_thinking": Qwen3Renderer.without_thinking,
    "qwen3_instruct": ChatMLRenderer,
    "role_colon": RoleColonRenderer,
    "tinsmith_tiny": TinyRenderer,
}


def register_renderer(name: str, builder: RendererBuilder) -> None:
    """Make a renderer known to `get_renderer`.

    Args:
        name: a name that is free.
        builder: makes the renderer from a tokenizer.

    Raises:
        UserError: the name is taken.
    """
    if name in _BUILDERS:
        raise invalid("name", name, "a name that no renderer has yet")
    _BUILDERS[name] = builder


def renderer_names() -> list[str]:
    """Return the names that `get_renderer` knows."""
    return sorted(_BUILDERS)


def get_renderer(name: str, tokenizer: Any) -> Renderer:
    """Make a renderer.

    Args:
        name: e.g. of `model_info.get_recommended_renderer_name(model)`.
        tokenizer: of the SDK (`tinsmith.get_tokenizer`) or a fast one of `transformers`.

    Raises:
        UserError: no such renderer, or the tokenizer lacks a control token of its format.
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        near = get_close_matches(name, _BUILDERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise invalid("renderer name", name, f"one of {', '.join(renderer_names())}{hint}")
    return builder(tokenizer)
