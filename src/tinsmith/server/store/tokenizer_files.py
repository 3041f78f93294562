"""The tokenizer of a base model, as JSON, so that a client needs nothing but the service."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tinsmith.model_files.folder import CONFIG, GENERATION, TOKENIZER
from tinsmith.model_files.reading import read_optional
from tinsmith.model_files.tokenizer_fields import read_tokenizer_folder
from tinsmith.server.json_bytes import to_bytes
from tinsmith.types.errors import UserError

_PLACE = "model"


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
            UserError: the folder holds no tokenizer.json (404), or a file in it cannot be read; names the file.
        """
        if folder not in self._read:
            body = to_bytes(_collect(folder))
            self._read[folder] = (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        return self._read[folder]


def _collect(folder: Path) -> dict[str, Any]:
    if not (folder / TOKENIZER).exists():
        raise UserError(f"model: got a checkpoint without {TOKENIZER} ({folder.name}), expected one with it", 404)
    fields = read_tokenizer_folder(_PLACE, folder)
    generation = read_optional(_PLACE, folder / GENERATION)
    model = read_optional(_PLACE, folder / CONFIG)
    # The generation config counts where both name ends: chat models end a turn with more than one token.
    eos = generation.get("eos_token_id", model.get("eos_token_id"))
    return {
        "tokenizer_json": fields.tokenizer_json,
        "tokenizer_config": fields.config,
        "chat_template": fields.chat_template,
        "generation_config": generation,
        "bos_token_id": generation.get("bos_token_id", model.get("bos_token_id")),
        "eos_token_ids": eos if isinstance(eos, list) else [] if eos is None else [eos],
        "pad_token_id": generation.get("pad_token_id", model.get("pad_token_id")),
    }
