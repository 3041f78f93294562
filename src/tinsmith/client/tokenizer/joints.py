"""Parts of a text as the tokenizer treats them in their places.

Many tokenizers put a space before whatever begins: before a text, or behind each control token (SentencePiece's, and
what was made of them). A part that is encoded alone gets a space that the whole text does not have; a part that is
decoded alone loses one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class Place(Enum):
    """What stands before a part: nothing, a control token, or text."""

    BEGINNING = "beginning"
    CONTROL = "control"
    TEXT = "text"


class EncodedPart(NamedTuple):
    """Ids of a part, and the range of its characters that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Joints:
    """Encodes and decodes parts of texts with one tokenizer.

    Attributes:
        needs_left: whether what stands before a part has a say in how it is spelled.
        added: tokens that are found in a text before it is split, by id.

    Args:
        backend: the tokenizer proper.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        normalizer, pre_tokenizer = _state(backend.normalizer), _state(backend.pre_tokenizer)
        scheme = _first_scheme(pre_tokenizer)
        bare = _bare_normalizer(normalizer), _bare_pre_tokenizer(pre_tokenizer)
        # Where nothing is put before a text, a part needs no other tokenizer than the whole.
        self._inner = backend if bare == (normalizer, pre_tokenizer) else _with_parts(backend, *bare)
        self._behind_control = self._inner if scheme == "first" else backend
        # How a word is spelled may depend on what it is joined to: "##ing", or a space before each word alike.
        joined = getattr(backend.model, "continuing_subword_prefix", None) or getattr(
            backend.model, "end_of_word_suffix", None
        )
        self.needs_left = bool(joined) or _adds_later(pre_tokenizer)
        self.added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
        self._anchor = self._find_anchor()

    def tokenizer_at(self, place: Place) -> Backend:
        """Return the tokenizer that encodes a part which stands at a place."""
        if place is Place.TEXT:
            return self._inner
        return self._backend if place is Place.BEGINNING else self._behind_control

    def encode(self, text: str, place: Place, left: str = "") -> EncodedPart:
        """Encode a part.

        Args:
            text: of the part.
            place: what stands before it.
            left: the end of what stands before it; it counts where `needs_left`, or where a control token takes the
                blanks behind it.
        """
        if left:
            whole = self._backend.encode(left + text, add_special_tokens=False)
            before = self._backend.encode(left, add_special_tokens=False).ids
            count, border = len(before), len(left)
            own = whole.offsets[count:]
            if whole.ids[:count] == before and all(start >= border for start, _ in own):
                return EncodedPart(whole.ids[count:], [(start - border, end - border) for start, end in own])
        encoding = self.tokenizer_at(place).encode(text, add_special_tokens=False)
        cut = self._first_added(text, encoding.ids, encoding.offsets) if place is Place.TEXT else None
        if cut is None:
            return EncodedPart(encoding.ids, encoding.offsets)
        # From there on the text is as it would be anyway.
        head = self._inner.encode(text[:cut], add_special_tokens=False)
        tail = self._backend.encode(text[cut:], add_special_tokens=False)
        return EncodedPart(head.ids + tail.ids, head.offsets + [(cut + low, cut + high) for low, high in tail.offsets])

    def _first_added(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> int | None:
        """Return where the first token begins that is found in a text before it is split; None where there is none."""
        if self._inner is self._backend:
            return None
        for token, (low, high) in zip(ids, offsets, strict=True):
            # An unknown character becomes such a token, too, and does not spell it.
            if token in self.added and text[low:high].strip() == self.added[token]:
                return low
        return None

    def encode_following(self, before: str, text: str) -> list[int]:
        """Return the ids that a text has behind another one, so that the other's ids stay as they are.

        Control tokens that are spelled in either text are control tokens.
        """
        ahead = self._backend.encode(before, add_special_tokens=False).ids
        whole = self._backend.encode(before + text, add_special_tokens=False)
        rest = whole.offsets[len(ahead) :]
        if whole.ids[: len(ahead)] == ahead and all(start >= len(before) for start, _ in rest):
            return whole.ids[len(ahead) :]
        # A token would span the border.
        return self.encode(text, Place.TEXT).ids

    def decode(self, ids: Sequence[int], place: Place, *, skip_special_tokens: bool = False) -> str:
        """Return the text of a part, without the space that the tokenizer put before it in its place."""
        if self._anchor is None:
            text = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        else:
            anchor = self._backend.decode([self._anchor], skip_special_tokens=False)
            text = self._backend.decode([self._anchor, *ids], skip_special_tokens=skip_special_tokens)[len(anchor) :]
        return text[1:] if text.startswith(" ") and self._puts_space(place) else text

    def _puts_space(self, place: Place) -> bool:
        there = self.tokenizer_at(place)
        if there is self._inner:
            return False
        return there.encode("a", add_special_tokens=False).ids != self._inner.encode("a", add_special_tokens=False).ids

    def _find_anchor(self) -> int | None:
        """Return a token to decode parts behind, so that no space is lost; None where none would be."""
        backend = self._backend
        if "WordPiece" in type(backend.decoder).__name__:
            return None  # Spaces are not among what its tokens spell.
        spaced = self._inner.encode(" a", add_special_tokens=False).ids
        if backend.decode(spaced, skip_special_tokens=False).startswith(" "):
            return None
        tokens = (backend.token_to_id(letter) for letter in "aeotAEOT01")
        return next((token for token in tokens if token is not None), None)


def ids_around(backend: Backend) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before a text and behind it: BOS and EOS, where it does so."""
    if backend.num_special_tokens_to_add(is_pair=False) == 0:
        return [], []
    # Any text of at least one token will do; a whole vocabulary is much to fetch for that.
    some = (text for vocabulary in ("ae0", backend.get_vocab(with_added_tokens=False)) for text in vocabulary)
    for text in islice(some, 100):
        plain = backend.encode(text, add_special_tokens=False)
        ids = [token for token, real in zip(plain.ids, plain.attention_mask, strict=True) if real]
        if ids:
            around = backend.encode(text, add_special_tokens=True)
            whole = [token for token, real in zip(around.ids, around.attention_mask, strict=True) if real]
            start = next((i for i, own in enumerate(around.special_tokens_mask) if not own), 0)
            start -= sum(not real for real in around.attention_mask[:start])
            return whole[:start], whole[start + len(ids) :]
    return [], []


def _state(component: Any) -> dict[str, Any] | None:
    """Return a component of a tokenizer as `tokenizer.json` has it; None for one that is written in Python."""
    try:
        return None if component is None else json.loads(component.__getstate__())
    except Exception:  # `tokenizers` raises a bare one for what it cannot write down
        return None


def _members(state: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if state is None:
        return []
    members = cast("list[dict[str, Any]]", state[key]) if state.get("type") == "Sequence" else [state]
    return [inner for m in members for inner in (_members(m, key) if m.get("type") == "Sequence" else [m])]


def _first_scheme(pre_tokenizer: dict[str, Any] | None) -> str | None:
    return next((m.get("prepend_scheme") for m in _members(pre_tokenizer, "pretokenizers")), None)


def _bare_normalizer(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer that changes nothing at the beginning of a text."""
    if state is None:
        return None
    members = [m for m in _members(state, "normalizers") if m["type"] != "Prepend"]
    members = [{**m, "strip_left": False} if m["type"] == "Strip" else m for m in members]
    if members == _members(state, "normalizers"):
        return state
    return {"type": "Sequence", "normalizers": members}


def _puts_before(member: dict[str, Any]) -> bool:
    scheme = member.get("prepend_scheme", "always" if member.get("add_prefix_space") else "never")
    return member["type"] in ("Metaspace", "ByteLevel") and scheme != "never"


def _bare_pre_tokenizer(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a pre-tokenizer that puts nothing before a text; one behind another puts it before each word."""
    members = _members(state, "pretokenizers")
    if not members or not _puts_before(members[0]):
        return state
    bare = {"prepend_scheme": "never"} if members[0]["type"] == "Metaspace" else {"add_prefix_space": False}
    return {"type": "Sequence", "pretokenizers": [{**members[0], **bare}, *members[1:]]}


def _adds_later(state: dict[str, Any] | None) -> bool:
    return any(_puts_before(member) for member in _members(state, "pretokenizers")[1:])


def _with_parts(backend: Backend, normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> Backend:
    """Return the tokenizer with another normalizer and pre-tokenizer; the vocabulary is shared, not copied."""
    from tokenizers import Tokenizer

    parts: dict[str, Any] = {"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    parts |= {"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    made = Tokenizer.from_str(json.dumps(parts))
    other = Tokenizer(backend.model)
    if made.normalizer is not None:
        other.normalizer = made.normalizer
    if made.pre_tokenizer is not None:
        other.pre_tokenizer = made.pre_tokenizer
    added = backend.get_added_tokens_decoder()
    cast("Any", other).add_tokens([token for _, token in sorted(added.items())])
    return other
