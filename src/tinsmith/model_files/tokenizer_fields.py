"""The files of a tokenizer as one set of fields, the same for the SDK and the service.

Several files may say the same thing. Which counts is `transformers`' choice (version 5), so that a folder means here
what it means there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from tinsmith.model_files.folder import CONFIG, SPECIAL_TOKENS, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from tinsmith.model_files.reading import parse_object, read_text
from tinsmith.types.errors import invalid

ChatTemplate = str | dict[str, str]

_ADDED_TOKENS = "added_tokens.json"
# Where a checkpoint has chat templates beside the one of every day, a file each.
_TEMPLATES = "additional_chat_templates"

# Model types whose tokenizers `transformers` takes from tokenizer.json as it stands, whatever class their config names.
_AS_IT_STANDS = (
    "arctic chatlm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 ernie4_5 ernie4_5_moe flex_olmo glm glm4 glm4_moe "
    "glm4_moe_lite gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared h2ovl_chat hyperclovax internlm2 "
    "jamba kimi_linear mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mistral3 mixtral nemotron olmo2 "
    "olmo3 olmo_hybrid opencua persimmon phi3 phimoe stablelm step3p5"
)


class TokenizerFields(NamedTuple):
    """What the files of a tokenizer say.

    Attributes:
        tokenizer_json: text of `tokenizer.json`, as the tokenizer's class builds it.
        config: fields of `tokenizer_config.json`, with those of older files.
        chat_template: one, several by name, or None.
    """

    tokenizer_json: str
    config: dict[str, Any]
    chat_template: ChatTemplate | None


def read_tokenizer_folder(place: str, folder: Path) -> TokenizerFields:
    """Read the tokenizer files of a checkpoint folder.

    Args:
        place: what messages call the model.
        folder: of the model.

    Raises:
        UserError: one of them cannot be read; names the file.
    """

    def read(file: str) -> str | None:
        return read_text(place, folder / file) if (folder / file).exists() else None

    fields = join_files(f"{place}: {folder}", read, lambda name: [file.name for file in (folder / name).glob("*")])
    # A missing one is named as every missing file is.
    return fields or TokenizerFields(read_text(place, folder / TOKENIZER, "a tokenizer"), {}, None)


def join_files(
    where: str, read: Callable[[str], str | None], names: Callable[[str], list[str]]
) -> TokenizerFields | None:
    """Join the tokenizer files of a checkpoint; None where it has no `tokenizer.json`.

    Args:
        where: what messages call the checkpoint.
        read: gives the text of a file, or None where there is no such file.
        names: gives the names of the files in a folder.

    Raises:
        UserError: one holds something else than it should; names the file.
    """

    def fields(file: str) -> dict[str, Any]:
        return parse_object(f"{where}/{file}", read(file) or "{}")

    tokenizer_json = read(TOKENIZER)
    if tokenizer_json is None:
        return None
    config = merge_config(fields(TOKENIZER_CONFIG), fields(SPECIAL_TOKENS), fields(_ADDED_TOKENS))
    additional = [name for name in sorted(names(_TEMPLATES)) if name.endswith(".jinja")]
    named = {name.removesuffix(".jinja"): read(f"{_TEMPLATES}/{name}") or "" for name in additional}
    template = merge_templates(config, read(TEMPLATE), named)
    model_type = fields(CONFIG).get("model_type")
    return TokenizerFields(*as_class_builds(tokenizer_json, config, model_type), template)


def merge_config(
    config: Mapping[str, Any], special_tokens_map: Mapping[str, Any], added_tokens: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of `tokenizer_config.json` with those of the files that older checkpoints have beside it.

    Args:
        config: fields of `tokenizer_config.json`. Where it has `added_tokens_decoder`, the others do not count.
        special_tokens_map: fields of `special_tokens_map.json`, which come before the config's.
        added_tokens: of `added_tokens.json`, token to id.
    """
    if "added_tokens_decoder" in config:
        return dict(config)
    merged = {**config, **special_tokens_map}
    if added_tokens:
        named = {_text(value) for key, value in merged.items() if key.endswith("_token")}
        merged["added_tokens_decoder"] = {
            str(index): {"content": token, "special": token in named, "normalized": token not in named}
            for token, index in added_tokens.items()
        }
    return merged


def merge_templates(
    config: Mapping[str, Any], default: str | None, additional: Mapping[str, str]
) -> ChatTemplate | None:
    """Return a checkpoint's chat template, or its templates by name.

    Args:
        config: fields of `tokenizer_config.json`, which may hold one, or several as a list of `name` and `template`.
        default: of `chat_template.jinja`; a file comes before the config.
        additional: of `additional_chat_templates/NAME.jinja`, by name.

    Raises:
        UserError: the config's is none.
    """
    if additional:
        return {**({} if default is None else {"default": default}), **additional}
    return default if default is not None else read_templates(config.get("chat_template"))


def read_templates(given: Any) -> ChatTemplate | None:
    """Return the template or templates that a field holds: a text, a list of `name` and `template`, or texts by name.

    Raises:
        UserError: it is none of them.
    """
    if given is None or isinstance(given, str):
        return given
    pairs: list[tuple[Any, Any]] = [(None, None)]
    if isinstance(given, list):
        entries = cast("list[Any]", given)
        pairs = [(_field(entry, "name"), _field(entry, "template")) for entry in entries]
    elif isinstance(given, Mapping):
        pairs = list(cast("Mapping[Any, Any]", given).items())
    if not pairs or not all(isinstance(name, str) and isinstance(template, str) for name, template in pairs):
        raise invalid("chat_template", cast("Any", given), "a template, or a list of objects with name and template")
    return dict(pairs)


def as_class_builds(tokenizer_json: str, config: dict[str, Any], model_type: str | None) -> tuple[str, dict[str, Any]]:
    """Return the tokenizer that a config's class builds of `tokenizer.json`, and the config with the class's defaults.

    `LlamaTokenizer` keeps the vocabulary and builds the rest anew: a space stands before the first text alone, or (with
    `legacy: true`) behind each control token too.

    Args:
        tokenizer_json: text of `tokenizer.json`.
        config: fields of `tokenizer_config.json`.
        model_type: of `config.json`; None where there is none.
    """
    kind = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if kind != "LlamaTokenizer" or model_type in _AS_IT_STANDS.split():
        return tokenizer_json, config
    try:
        fields: dict[str, Any] = json.loads(tokenizer_json)
        model: dict[str, Any] = fields["model"]
        vocabulary, merges = model["vocab"], model["merges"]
    except (ValueError, RecursionError, KeyError, TypeError):
        # No tokenizer can be made of it either, and whoever tries says why.
        return tokenizer_json, config
    if model.get("type", "BPE") != "BPE":
        return tokenizer_json, config
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    decoder: list[dict[str, Any]] = [space, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    fields |= {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }
    if "added_tokens_decoder" in config:
        fields["added_tokens"] = []
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return json.dumps(fields), {**named, **config}


def _text(token: Any) -> Any:
    return token if isinstance(token, str) else _field(token, "content")


def _field(entry: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", entry).get(name) if isinstance(entry, Mapping) else None
