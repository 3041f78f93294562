"""`Tokenizer`: text to token ids and back, and chats to text; the part of the Hugging Face surface that people use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from tinsmith.client.tokenizer.joints import Joints, Place, ids_around
from tinsmith.types.errors import invalid

if TYPE_CHECKING:
    import tokenizers

Messages = Sequence[Mapping[str, Any]]

# The roles that `tokenizer_config.json` gives names to.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Encoding(dict[str, Any]):
    """`input_ids`, `attention_mask` and the like, by key or by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Tokenizer:
    """A fast tokenizer with its chat template.

    Args:
        backend: the tokenizer proper, of `tokenizer.json`.
        config: fields of `tokenizer_config.json`.
        chat_template: a Jinja template; None where the model has none.
        name_or_path: where it comes from.
    """

    is_fast = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        name_or_path: str = "",
    ) -> None:
        self.backend_tokenizer = backend
        self.name_or_path = name_or_path
        self.chat_template = chat_template
        self.init_kwargs: dict[str, Any] = dict(config or {})
        # "No limit", as `transformers` writes it where the config has none.
        self.model_max_length = int(self.init_kwargs.get("model_max_length") or 1e30)
        named = {name: token_text(self.init_kwargs.get(name)) for name in _NAMED}
        self.special_tokens_map: dict[str, str] = {name: text for name, text in named.items() if text is not None}
        listed: Any = self.init_kwargs.get("additional_special_tokens") or self.init_kwargs.get("extra_special_tokens")
        texts = [token_text(token) for token in cast("list[Any]", listed)] if isinstance(listed, list) else []
        self.additional_special_tokens: list[str] = [text for text in texts if text is not None]

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r}, {len(self)} tokens)"

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens; `len(tokenizer)` counts them, too."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Return token to id, added tokens included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    # -- named tokens -------------------------------------------------------------------------------------------------

    @property
    def bos_token(self) -> str | None:
        """Token that begins a text."""
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """Token that ends a text or a turn."""
        return self.special_tokens_map.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        """Token that fills up."""
        return self.special_tokens_map.get("pad_token")

    @property
    def unk_token(self) -> str | None:
        """Token for what the vocabulary does not have."""
        return self.special_tokens_map.get("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        """Id of `bos_token`."""
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """Id of `eos_token`."""
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id of `pad_token`."""
        return self._id(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        """Id of `unk_token`."""
        return self._id(self.unk_token)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    @cached_property
    def all_special_tokens(self) -> list[str]:
        """The named tokens and the further special ones, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.additional_special_tokens]))

    @cached_property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return [i for i in (self._id(token) for token in self.all_special_tokens) if i is not None]

    # -- text to ids --------------------------------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text, with BOS and the like where the tokenizer adds them."""
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text as they stand in the vocabulary."""
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).tokens

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> Encoding:
        """Encode a text, or several into lists of lists, without padding.

        Args:
            text: one or several.
            add_special_tokens: BOS and the like where the tokenizer adds them.
            return_offsets_mapping: give the character range of each token, too.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        encoded = [self.backend_tokenizer.encode(t, add_special_tokens=add_special_tokens) for t in texts]
        fields: dict[str, list[Any]] = {
            "input_ids": [e.ids for e in encoded],
            "attention_mask": [e.attention_mask for e in encoded],
        }
        if return_offsets_mapping:
            fields["offset_mapping"] = [e.offsets for e in encoded]
        return Encoding({key: values[0] if single else values for key, values in fields.items()})

    @cached_property
    def joints(self) -> Joints:
        """Parts of texts as this tokenizer treats them in their places."""
        return Joints(self.backend_tokenizer)

    def begin(self, ids: list[int]) -> list[int]:
        """Return ids behind those that the tokenizer puts before a text (BOS), if any."""
        return [*self._ids_before, *ids]

    @cached_property
    def _ids_before(self) -> list[int]:
        return ids_around(self.backend_tokenizer)[0]

    # -- ids to text --------------------------------------------------------------------------------------------------

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids (a list, array or tensor, or one id)."""
        ids = _ids(token_ids)
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def decode_following(
        self, before: Sequence[int], token_ids: Sequence[int], skip_special_tokens: bool = False
    ) -> str:
        """Return the text that token ids add to those before them, a space at its beginning included.

        Args:
            before: e.g. a prompt.
            token_ids: e.g. what was sampled.
            skip_special_tokens: leave special tokens out.
        """
        if not before:
            place = Place.BEGINNING
        else:
            place = Place.CONTROL if before[-1] in self.backend_tokenizer.get_added_tokens_decoder() else Place.TEXT
        return self.joints.decode(token_ids, place, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return the text of each sequence."""
        return [self.decode(sequence, skip_special_tokens) for sequence in sequences]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or of each; that of `unk_token` (or None) for what the vocabulary does not have."""
        if isinstance(tokens, str):
            found = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """Return the token of an id, or of each."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(i) for i in _ids(ids)]

    # -- chats --------------------------------------------------------------------------------------------------------

    @overload
    def apply_chat_template(
        self,
        conversation: Messages,
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[False],
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> str: ...
    @overload
    def apply_chat_template(
        self,
        conversation: Messages,
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[True] = True,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        return_dict: Literal[False] = False,
        **variables: Any,
    ) -> list[int]: ...
    @overload
    def apply_chat_template(
        self,
        conversation: Messages,
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[True] = True,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        return_dict: Literal[True],
        **variables: Any,
    ) -> Encoding: ...
    def apply_chat_template(
        self,
        conversation: Messages,
        tools: Sequence[Any] | None = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> str | list[int] | Encoding:
        """Write a conversation as the model reads it.

        Args:
            conversation: messages, each with `role` and `content`.
            tools: JSON schemas of tools that the model may call.
            tokenize: return token ids, not the text.
            add_generation_prompt: end with the beginning of an assistant turn.
            chat_template: a template to take in place of the model's own.
            return_dict: return `input_ids` and `attention_mask`.
            variables: what else the template reads, e.g. `enable_thinking=False`.

        Raises:
            UserError: there is no template, or it refuses the conversation.
        """
        # Jinja costs an import that most processes never need.
        from tinsmith.client.tokenizer.chat_template import render

        template = chat_template or self.chat_template
        if template is None:
            raise invalid("chat_template", None, f"a template: the tokenizer of {self.name_or_path!r} has none")
        values = {**self.special_tokens_map, **variables, "tools": list(tools) if tools is not None else None}
        text = render(template, list(conversation), add_generation_prompt=add_generation_prompt, **values)
        if not tokenize:
            return text
        return self(text, add_special_tokens=False) if return_dict else self.encode(text, add_special_tokens=False)


def token_text(token: Any) -> str | None:
    """Return the text of a token as `tokenizer_config.json` has it: a string, or an object with `content`."""
    if isinstance(token, Mapping):
        return cast("Mapping[str, str]", token).get("content")
    return token if isinstance(token, str) else None


def _ids(token_ids: Any) -> list[int]:
    # Arrays of numpy and tensors of torch, neither of which is imported for this.
    if hasattr(token_ids, "tolist"):
        token_ids = token_ids.tolist()
    return [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
