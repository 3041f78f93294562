"""What `tokenizer_config.json` says beyond `tokenizer.json`: names of special tokens, and tokens of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tinsmith.types.errors import invalid

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

# The roles that every tokenizer may have a token for; a config may name others (`image_token`).
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_EXPECTED = "a token: a string, or an object with content"


@dataclass
class ConfigTokens:
    """The special tokens that a config names.

    Attributes:
        named: role to token, e.g. `bos_token`.
        further: special tokens without a role.
    """

    named: dict[str, str] = field(default_factory=dict[str, str])
    further: list[str] = field(default_factory=list[str])


def apply_config(backend: Backend, config: Mapping[str, Any]) -> ConfigTokens:
    """Return the special tokens that a config names, and add those to the tokenizer that it does not have yet.

    As `transformers` does: a new token gets the next free id, whatever id the config declares it with.

    Args:
        backend: the tokenizer, of `tokenizer.json`; changed.
        config: fields of `tokenizer_config.json`.

    Raises:
        UserError: a token is none; names the field.
    """
    # What it was saved with is for calls that ask for it.
    padding = cast("dict[str, Any] | None", cast("Any", backend).padding)
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = bool(config.get("split_special_tokens"))
    found = ConfigTokens()
    special: list[AddedToken] = []
    declared = _declared(config)
    by_text = {token.content: token for token in declared}
    for role, value in _roles(config, padding).items():
        text = token_text(value)
        if text is None:
            raise invalid(f"tokenizer_config.json: {role}", value, _EXPECTED)
        found.named[role] = text
        special.append(by_text.get(text) or _token(value, text))
    listed = config.get("extra_special_tokens", config.get("additional_special_tokens"))
    for index, value in enumerate(cast("list[Any]", listed) if isinstance(listed, list) else []):
        text = token_text(value)
        if text is None:
            raise invalid(f"tokenizer_config.json: extra_special_tokens[{index}]", value, _EXPECTED)
        found.further.append(text)
        special.append(_token(value, text))
    present = backend.get_added_tokens_decoder().values()
    kept = {repr(token) for token in present}
    new = [token for token in declared if repr(token) not in kept]
    known = {token.content for token in (*present, *new)}
    new += [token for token in special if token.content not in known]
    for token in new:
        if token.content in found.named.values():
            token.special = True
    if new:
        cast("Any", backend).add_tokens(new)
    return found


def token_text(token: Any) -> str | None:
    """Return the text of a token as `tokenizer_config.json` has it: a string, or an object with `content`."""
    if isinstance(token, Mapping):
        token = cast("Mapping[str, Any]", token).get("content")
    return token if isinstance(token, str) else None


def _roles(config: Mapping[str, Any], padding: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tokens that have a role, in the order in which `transformers` names them."""
    roles = {role: config[role] for role in NAMED if config.get(role) is not None}
    if padding is not None:
        roles.setdefault("pad_token", padding["pad_token"])
    own = {k: v for k, v in config.items() if k.endswith("_token") and k not in NAMED and token_text(v) is not None}
    extra = config.get("extra_special_tokens")
    return {**roles, **own, **(cast("dict[str, Any]", extra) if isinstance(extra, Mapping) else {})}


def _declared(config: Mapping[str, Any]) -> list[AddedToken]:
    """Return the tokens of `added_tokens_decoder`, by id."""
    entries: Any = config.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        raise invalid("tokenizer_config.json: added_tokens_decoder", entries, "an object of ids and tokens")
    numbered: list[tuple[int, AddedToken]] = []
    for key, value in cast("Mapping[str, Any]", entries).items():
        place = f"tokenizer_config.json: added_tokens_decoder[{key!r}]"
        text = token_text(value)
        if text is None or not isinstance(value, Mapping):
            raise invalid(place, value, "a token, an object with content")
        if not str(key).isdecimal():
            raise invalid(place, key, "an id, a whole number")
        numbered.append((int(key), _token(cast("Mapping[str, Any]", value), text)))
    return [token for _, token in sorted(numbered, key=lambda one: one[0])]


def _token(value: Any, text: str) -> AddedToken:
    from tokenizers import AddedToken

    if not isinstance(value, Mapping):
        return AddedToken(text, special=True)
    flags = cast("Mapping[str, Any]", value)
    return AddedToken(text, **{flag: bool(flags[flag]) for flag in _FLAGS if flag in flags})
