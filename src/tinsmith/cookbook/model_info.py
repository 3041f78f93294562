"""What the cookbook knows of a model: from its own config where there is one, from the lineup by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith import get_tokenizer, hub, models
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer, get_renderer
from tinsmith.types.errors import TinsmithError, UserError, invalid
from tinsmith.types.facts.lineup import Kind, lookup

_EXPECTED = "a model of the lineup, a checkpoint's folder, or a hub id that can be had"


@dataclass(frozen=True, slots=True)
class ModelAttributes:
    """What is known of a model.

    Attributes:
        name: as it was asked for.
        model_type: of `transformers`, e.g. `qwen3`; of a lineup name without a config, its family.
        hidden_size: width of the residual stream.
        context_length: tokens; None where the config does not say.
        is_moe: whether it has experts.
        kind: `base`, `instruct`, `hybrid` or `reasoning`; None where only a person could tell.
    """

    name: str
    model_type: str
    hidden_size: int
    context_length: int | None
    is_moe: bool
    kind: Kind | None = None


def get_recommended_renderer_name(model_name: str, tokenizer: Any = None) -> str:
    """Return the name of the renderer that fits a model.

    Models of the lineup have the renderer of their family, base models `role_colon`. Any other model, a folder on disk
    included, has its tokenizer's own chat template, or `role_colon` where it has none; that is logged as a warning.

    Args:
        model_name: a name of the lineup, a folder, or any other name.
        tokenizer: the model's tokenizer; None asks `tinsmith.get_tokenizer` where the lineup has no such model.
    """
    # The lineup first: its formats are held against the published templates by tests, a fallback is not.
    facts = lookup(model_name)
    if facts is not None:
        return facts.renderer
    name, reason = _fallback(model_name, tokenizer)
    warn_once(
        f"renderer of {model_name}",
        f"model_name: {model_name!r} is not in the lineup; {reason}: renderer {name!r}. "
        "Name a renderer to choose another",
    )
    return name


def renderer_of(model_name: str, tokenizer: Any, renderer_name: str | None = None) -> Renderer:
    """Make the renderer of a model.

    Args:
        model_name: a name of the lineup, a folder, or any other name.
        tokenizer: the model's.
        renderer_name: the chat format; None takes the recommended one.

    Raises:
        UserError: there is no such renderer, or it does not fit the tokenizer.
    """
    return get_renderer(renderer_name or get_recommended_renderer_name(model_name, tokenizer), tokenizer)


def get_model_attributes(model_name: str) -> ModelAttributes:
    """Return what is known of a model: of the lineup by its name, of any other from its `config.json`.

    Args:
        model_name: a name of the lineup, a checkpoint folder, or a hub id.

    Raises:
        UserError: it is none of them, or its config names no hidden size.
    """
    facts = lookup(model_name)
    if facts is not None:
        size, context = facts.hidden_size, facts.context_length
        return ModelAttributes(model_name, facts.family, size, context, facts.is_moe, facts.kind)
    config = read_config(model_name)
    hidden_size = config.get("hidden_size")
    if not isinstance(hidden_size, int) or hidden_size < 1:
        raise invalid(f"{model_name}: config.json: hidden_size", hidden_size, "a whole number")
    context = config.get("max_position_embeddings")
    return ModelAttributes(
        model_name, str(config.get("model_type", "")), hidden_size, context, count_experts(config) > 1
    )


def count_experts(config: Mapping[str, Any]) -> int:
    """Return how many experts a layer of a config's model has; 0 where it has none. Families name the field each."""
    return next((config[k] for k in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(k)), 0)


def read_config(model_name: str) -> dict[str, Any]:
    """Return the text model's part of a checkpoint's `config.json`.

    Args:
        model_name: a folder, a model that ships with the package, or a hub id that is in the local cache or can be
            fetched.

    Raises:
        UserError: there is no such config.
    """
    path = _config_file(model_name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise invalid("model_name", model_name, f"a checkpoint whose config.json is JSON ({error})") from error
    # Models that see pictures have the language model's part in a place of its own.
    return config.get("text_config") or config


def _config_file(model_name: str) -> Path:
    if model_name in models.NAMES:
        return models.path(model_name) / "config.json"
    # A folder before the hub: a name with a slash may be both, and who has the folder means it.
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise invalid("model_name", model_name, "a folder with a config.json")
        return folder / "config.json"
    try:
        path = hub.fetch(model_name, "config.json")
    except (OSError, ValueError) as error:
        raise invalid("model_name", model_name, f"{_EXPECTED}: {str(error).strip().splitlines()[0]}") from error
    if path is None:
        raise invalid("model_name", model_name, f"{_EXPECTED}: the hub has it without a config.json")
    return path


def _fallback(model_name: str, tokenizer: Any) -> tuple[str, str]:
    # Trying is the only way to know: a template may be missing, or need what no renderer can give it.
    try:
        get_renderer("chat_template", tokenizer if tokenizer is not None else get_tokenizer(model_name))
    except (UserError, TinsmithError) as error:
        return "role_colon", f"its chat template cannot be used ({error})"
    return "chat_template", "its tokenizer's own chat template is used"
