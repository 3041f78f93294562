"""What the cookbook knows of a model: from its own config where there is one, from the lineup by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinsmith import get_tokenizer
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.types.errors import TinsmithError, UserError, invalid
from tinsmith.types.registry import EMBEDDED_MODEL, ModelFacts, lookup


def get_recommended_renderer_name(model_name: str, tokenizer: Any = None) -> str:
    """Return the name of the renderer that fits a model.

    Models of the lineup have the renderer of their family, base models `role_colon`. Any other model, a folder on disk
    included, has its tokenizer's own chat template, or `role_colon` where it has none; that is logged as a warning.

    Args:
        model_name: a name of the lineup, a folder, or any other name.
        tokenizer: the model's tokenizer; None asks `tinsmith.get_tokenizer` where the lineup has no such model.
    """
    facts = lookup(model_name)
    if facts is not None:
        return _renderer_of(facts)
    name, reason = _fallback(model_name, tokenizer)
    warn_once(
        f"renderer of {model_name}",
        f"model_name: {model_name!r} is not in the lineup; {reason}: renderer {name!r}. "
        "Name a renderer to choose another",
    )
    return name


def _fallback(model_name: str, tokenizer: Any) -> tuple[str, str]:
    try:
        get_renderer("chat_template", tokenizer if tokenizer is not None else get_tokenizer(model_name))
    except (UserError, TinsmithError) as error:
        return "role_colon", f"its chat template cannot be used ({error})"
    return "chat_template", "its tokenizer's own chat template is used"


def _renderer_of(facts: ModelFacts) -> str:
    if facts.name == EMBEDDED_MODEL:
        return "tinsmith_tiny"
    if facts.kind == "base":
        return "role_colon"
    if facts.family == "llama":
        return "llama3"
    if "Qwen2.5" in facts.name:
        return "qwen2_5"
    return "qwen3" if facts.kind == "hybrid" else "qwen3_instruct"


def read_config(model_name: str) -> dict[str, Any]:
    """Return the text model's part of a checkpoint's `config.json`.

    Args:
        model_name: a folder, or a hub id that is in the local cache or can be fetched.

    Raises:
        UserError: there is no such config.
    """
    path = Path(model_name) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else _hub_config(model_name)
    return config.get("text_config") or config


def _hub_config(model_name: str) -> dict[str, Any]:
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model_name)
    except (OSError, ValueError) as error:
        raise invalid(
            "model_name",
            model_name,
            "a model of the lineup, a folder with a config.json, or a hub id that can be reached",
        ) from error
    if not config:
        raise invalid("model_name", model_name, "a model of the lineup, or a folder with a config.json")
    return config
