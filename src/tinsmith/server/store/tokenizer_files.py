"""The tokenizer of a base model, as JSON, so that a client needs nothing but the service."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson

from tinsmith.types.errors import UserError
from tinsmith.types.tokenizer_fields import as_class_builds, merge_config, merge_templates


class TokenizerFiles:
    """Reads tokenizers once and keeps them.

    The answer holds `tokenizer_json` (the text of tokenizer.json, as the tokenizer's class builds it),
    `tokenizer_config`, `chat_template` (a text, or texts by name), `generation_config`, `bos_token_id`,
    `eos_token_ids` and `pad_token_id`.
    """

    def __init__(self) -> None:
        self._read: dict[Path, tuple[bytes, str]] = {}

    def get(self, folder: Path) -> tuple[bytes, str]:
        """Return the JSON and its ETag.

        Raises:
            UserError: the folder holds no tokenizer.json (404).
        """
        if folder not in self._read:
            body = orjson.dumps(_collect(folder))
            self._read[folder] = (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        return self._read[folder]


def _collect(folder: Path) -> dict[str, Any]:
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise UserError(f"model: got a checkpoint without tokenizer.json ({folder.name}), expected one with it", 404)
    files = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    config = merge_config(*(_json(folder / file) for file in files))
    generation = _json(folder / "generation_config.json")
    model = _json(folder / "config.json")
    template = folder / "chat_template.jinja"
    default = template.read_text(encoding="utf-8") if template.is_file() else None
    named = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    templates = merge_templates(config, default, {file.stem: file.read_text(encoding="utf-8") for file in named})
    text, config = as_class_builds(tokenizer.read_text(encoding="utf-8"), config, model.get("model_type"))
    # The generation config counts where both name ends: chat models end a turn with more than one token.
    eos = generation.get("eos_token_id", model.get("eos_token_id"))
    return {
        "tokenizer_json": text,
        "tokenizer_config": config,
        "chat_template": templates,
        "generation_config": generation,
        "bos_token_id": generation.get("bos_token_id", model.get("bos_token_id")),
        "eos_token_ids": eos if isinstance(eos, list) else [] if eos is None else [eos],
        "pad_token_id": generation.get("pad_token_id", model.get("pad_token_id")),
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
