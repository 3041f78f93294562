"""`Tokenizer`: text to token ids and back, and chats to text; the part of the Hugging Face surface that people use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from tinsmith.client.tokenizer.config_tokens import apply_config
from tinsmith.client.tokenizer.joints import Joints, Place, ids_around
from tinsmith.types.errors import invalid

if TYPE_CHECKING:
    import tokenizers

Messages = Sequence[Mapping[str, Any]]


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
        chat_template: a Jinja template, several by name, or None where the model has none.
        name_or_path: where it comes from.
    """

    is_fast = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any] | None = None,
        chat_template: str | dict[str, str] | None = None,
        name_or_path: str = "",
    ) -> None:
        self.backend_tokenizer = backend
        self.name_or_path = name_or_path
        self.chat_template = chat_template
        self.init_kwargs: dict[str, Any] = dict(config or {})
        # "No limit", as `transformers` writes it where the config has none.
        self.model_max_length = int(self.init_kwargs.get("model_max_length") or 1e30)
        tokens = apply_config(backend, self.init_kwargs)
        self.special_tokens_map: dict[str, str] = tokens.named
        self.additional_special_tokens: list[str] = tokens.further

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
        text = self.backend_tokenizer.decode(_ids(token_ids), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self._cleans_up else text

    @cached_property
    def _cleans_up(self) -> bool:
        # Of byte pairs it would take away spaces that the text has: as `transformers`, whatever their configs say.
        pairs = type(self.backend_tokenizer.model).__name__ == "BPE"
        forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        return bool(self.init_kwargs.get("clean_up_tokenization_spaces")) and (
            not pairs or bool(self.init_kwargs.get(forced))
        )

    def decode_following(
        self, before: Sequence[int], token_ids: Sequence[int], skip_special_tokens: bool = False
    ) -> str:
        """Return the text that token ids add to those before them, a space at its beginning included.

        Args:
            before: e.g. a prompt.
            token_ids: e.g. what was sampled.
            skip_special_tokens: leave special tokens out.
        """
        place = Place.TEXT
        if not before:
            place = Place.BEGINNING
        elif before[-1] in self.joints.added:
            place = Place.CONTROL
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

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """Return the template that `apply_chat_template` takes.

        Args:
            chat_template: a template, or the name of one of several.
            tools: where there are some, the template called `tool_use` comes before the one called `default`.

        Raises:
            UserError: there is none, or none of several is called `default`.
        """
        own = self.chat_template
        if isinstance(own, str) or not own:
            if not chat_template and not own:
                raise invalid("chat_template", None, f"a template: the tokenizer of {self.name_or_path!r} has none")
            return chat_template or str(own)
        if chat_template is not None:
            return own.get(chat_template, chat_template)
        name = "tool_use" if tools is not None and "tool_use" in own else "default"
        if name not in own:
            raise invalid("chat_template", None, f"the name of one of several: {', '.join(sorted(own))}")
        return own[name]

    @overload
    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[False],
        **options: Any,
    ) -> str: ...
    @overload
    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[True] = True,
        return_dict: Literal[False] = False,
        **options: Any,
    ) -> list[int]: ...
    @overload
    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Any] | None = None,
        *,
        tokenize: Literal[True] = True,
        return_dict: Literal[True],
        **options: Any,
    ) -> Encoding: ...
    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Any] | None = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        chat_template: str | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> str | list[int] | Encoding | list[str] | list[list[int]]:
        """Write a conversation as the model reads it, or each of a list of conversations.

        As that of `transformers`, except that ids come as a list unless `return_dict` asks for more. What it knows and
        this does not (padding, truncation, tensors, masks) is refused.

        Args:
            conversation: messages, each with `role` and `content`; or a list of such lists, whose texts or ids are
                returned as a list.
            tools: JSON schemas of tools that the model may call.
            tokenize: return token ids, not the text.
            add_generation_prompt: end with the beginning of an assistant turn.
            continue_final_message: end where the last message does, for the model to go on with it; a text names the
                field of the message, which is `content` otherwise.
            chat_template: a template to take in place of the model's own, or the name of one of several.
            documents: for templates that show some.
            return_dict: return `input_ids` and `attention_mask`.
            variables: what else the template reads, e.g. `enable_thinking=False`.

        Raises:
            UserError: there is no template, it refuses the conversation, or an argument is one that is not taken.
        """
        # Jinja costs an import that most processes never need.
        from tinsmith.client.tokenizer.chat_arguments import check_options, conversations_of, tool_schemas
        from tinsmith.client.tokenizer.chat_template import render, render_open

        check_options(variables)
        if continue_final_message and add_generation_prompt:
            raise invalid("continue_final_message", continue_final_message, "none beside add_generation_prompt")
        template = self.get_chat_template(chat_template, tools)
        chats, several = conversations_of(conversation)
        values: dict[str, Any] = {
            **self.special_tokens_map,
            **variables,
            "tools": tool_schemas(tools),
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        if continue_final_message:
            field = continue_final_message if isinstance(continue_final_message, str) else "content"
            texts = [render_open(template, chat, field, **values) for chat in chats]
        else:
            texts = [render(template, chat, **values) for chat in chats]
        if not tokenize:
            return texts if several else texts[0]
        encoded = self(texts if several else texts[0], add_special_tokens=False)
        return encoded if return_dict else encoded["input_ids"]


def clean_up(text: str) -> str:
    """Return a text without the spaces that tokens of words leave before punctuation."""
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text


def _ids(token_ids: Any) -> list[int]:
    # Arrays of numpy and tensors of torch, neither of which is imported for this.
    if hasattr(token_ids, "tolist"):
        token_ids = token_ids.tolist()
    return [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
