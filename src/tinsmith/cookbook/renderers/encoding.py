"""From pieces of text to token ids: a control token stands only where a renderer wrote it, never in somebody's text.

Plain text between two control tokens is encoded in one go, because byte-pair merges may cross a piece's border; a
`seam` is a border that merges must not cross (where a generation prompt ends). Every part is encoded as the tokenizer
encodes it in the whole text: a space that it puts before a text stands where it puts one, and nowhere else.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from tinsmith.client.tokenizer.joints import EncodedPart, Joints, Place
from tinsmith.cookbook.renderers.text import check_unicode
from tinsmith.types.errors import invalid

# Texts up to this length come again and again (roles, line breaks): their ids are kept.
_SHORT = 16
# A format's own texts are no longer than this; whole conversations, rendered by a template, are not kept.
_FIXED = 2048
_MARKUP = re.compile(r"[<\[｜]\S.*[>\]｜]", re.DOTALL)
# Letters of dead scripts, which a vocabulary without bytes hardly has.
_UNKNOWN = "𒀀 𐎀 𐤀"
# So much of what stands before a part may have a say in how it is spelled: a word.
_WORD = 64


class Piece(NamedTuple):
    """A stretch of a rendered conversation.

    Attributes:
        text: the text.
        data: somebody's words; control tokens spelled in it stay text.
        spoken: part of what the turn's author says (content and end marker), so that it can carry weight.
        seam: no token spans the border before this piece.
        ids: the piece's tokens where they are known (they were sampled); `text` is not read then.
        begins: what follows is encoded as the beginning of a text (`ids` are those that the tokenizer puts before one).
    """

    text: str
    data: bool = False
    spoken: bool = False
    seam: bool = False
    ids: tuple[int, ...] | None = None
    begins: bool = False


class _Part(NamedTuple):
    """A part of a run: text of one weight; `control` where it is a control token that the tokenizer has to find."""

    text: str
    weight: float
    control: int | None = None


class _Left(NamedTuple):
    """What stands before a run: its kind, and its end as far as it counts."""

    place: Place = Place.BEGINNING
    text: str = ""


def fast_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return the `tokenizers.Tokenizer` behind a tokenizer of the SDK or of `transformers`.

    Raises:
        UserError: there is none.
    """
    for candidate in (tokenizer, getattr(tokenizer, "backend_tokenizer", None), getattr(tokenizer, "backend", None)):
        if isinstance(candidate, Tokenizer):
            return candidate
    raise invalid("tokenizer", type(tokenizer).__name__, "tinsmith.get_tokenizer(...), or a fast tokenizer")


class PieceEncoder:
    """Encodes pieces with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.backend = fast_tokenizer(tokenizer)
        added = self.backend.get_added_tokens_decoder()
        controls = {i: token for i, token in added.items() if token.special or _MARKUP.fullmatch(token.content)}
        self._control_ids: dict[str, int] = {token.content: index for index, token in controls.items()}
        names = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._ids = frozenset(self._control_ids.values())
        self._texts = {index: text for text, index in self._control_ids.items()}
        # Those that take blanks beside them, or are found among whole words only.
        self._grasping = frozenset(index for index, token in controls.items() if _grasps(token))
        self._joints = Joints(self.backend)
        # What text must never become. A character that the vocabulary lacks becomes the token for that, and may.
        self._forbidden = self._ids.difference(self.backend.encode(_UNKNOWN, add_special_tokens=False).ids)
        self._encode_short = lru_cache(maxsize=4096)(self._encode_alone)
        self._split_fixed = lru_cache(maxsize=1024)(self._split_at_controls)

    def __reduce__(self) -> tuple[type[PieceEncoder], tuple[Tokenizer]]:
        # What is kept of earlier calls stays behind, so that renderers can go to other processes.
        return PieceEncoder, (self.backend,)

    def control_id(self, token: str, needed_by: str) -> int:
        """Return the id of a control token.

        Raises:
            UserError: the tokenizer has none of that name.
        """
        if token not in self._control_ids:
            raise invalid("tokenizer", f"no token {token!r}", f"a tokenizer of the {needed_by} family")
        return self._control_ids[token]

    def has_control(self, token: str) -> bool:
        """Whether the tokenizer has a control token of that name."""
        return token in self._control_ids

    def control_names(self) -> list[str]:
        """Return the control tokens."""
        return list(self._control_ids)

    def control_text(self, token: int) -> str | None:
        """Return the control token of an id; None where it is another token."""
        return self._texts.get(token)

    def find_control(self, text: str) -> list[re.Match[str]]:
        """Return the places where control tokens are spelled in a text, in order."""
        return list(self._control.finditer(text))

    def decode(self, tokens: Sequence[int], place: Place = Place.CONTROL) -> str:
        """Return the text of token ids, control tokens spelled out.

        Args:
            tokens: a part of a text.
            place: what stands before them; behind a control token some tokenizers put a space that is nobody's.
        """
        return self._joints.decode(tokens, place)

    def place_behind(self, pieces: Sequence[Piece]) -> Place:
        """Return what stands before whatever follows these pieces."""
        left = _Left()
        for piece in pieces:
            left = self._left_behind(piece, left)
        return left.place

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Return the token ids of pieces."""
        return self.encode_weighted(pieces, [0.0] * len(pieces))[0]

    def encode_prefill(self, prefill: str | None, before: Sequence[Piece]) -> list[int]:
        """Return the ids that the beginning of an answer adds to a prompt.

        Args:
            prefill: the beginning; None where there is none.
            before: the end of the prompt, from what opens the answer's turn on.

        Raises:
            UserError: it is no text.
        """
        if prefill is None:
            return []
        if not isinstance(prefill, str):
            raise invalid("prefill", prefill, "a string")
        check_unicode(prefill, "prefill")
        return self.encode([*before, Piece(prefill, seam=True)])[len(self.encode(before)) :]

    def encode_weighted(self, pieces: Sequence[Piece], weights: Sequence[float]) -> tuple[list[int], list[float]]:
        """Encode pieces; each token has the weight of the piece in which it ends.

        Args:
            pieces: in order.
            weights: one per piece.

        Returns:
            Token ids and their weights, of equal length.
        """
        # `transformers` leaves the padding and truncation of its last call behind.
        if self.backend.padding is not None:
            self.backend.no_padding()
        if self.backend.truncation is not None:
            self.backend.no_truncation()
        stretches = self._encode_stretches(pieces, weights)
        tokens = [token for ids, _ in stretches for token in ids]
        token_weights: list[float] = []
        for ids, weight in stretches:
            token_weights += weight if isinstance(weight, list) else [weight] * len(ids)
        return tokens, token_weights

    def _encode_stretches(
        self, pieces: Sequence[Piece], weights: Sequence[float]
    ) -> list[tuple[Sequence[int], float | list[float]]]:
        """Return (ids, weight of all or one per id) for each stretch that is encoded by itself."""
        stretches: list[tuple[Sequence[int], float | list[float]]] = []
        run: list[_Part] = []
        # Long texts of one weight, by their place in `stretches`: encoded last, all at once.
        waiting: dict[int, tuple[str, _Left]] = {}
        # What stands before the run, and before the piece that comes next.
        begin = left = _Left()

        def flush() -> None:
            nonlocal begin
            if run:
                text = "".join(part.text for part in run)
                weight = run[0].weight
                if any(part.weight != weight or part.control is not None for part in run):
                    stretches.append(self._encode_mixed(text, run, begin))
                elif len(text) <= _SHORT:
                    stretches.append((self._encode_short(text, begin), weight))
                else:
                    waiting[len(stretches)] = text, begin
                    stretches.append(((), weight))
                run.clear()
            begin = left

        for piece, weight in zip(pieces, weights, strict=True):
            if piece.seam or piece.ids is not None:
                flush()
            if piece.ids is not None:
                stretches.append((piece.ids, weight))
                begin = left = self._left_behind(piece, left)
                continue
            for text, control in self._split(piece):
                if control is None or control in self._grasping:
                    run.append(_Part(text, weight, control))
                    left = self._left_of(text, control, left)
                else:
                    flush()
                    stretches.append(((control,), weight))
                    begin = left = self._left_of(text, control, left)
        flush()
        for place, ids in zip(waiting, self._encode_texts(list(waiting.values())), strict=True):
            stretches[place] = (ids, stretches[place][1])
        return stretches

    def _split(self, piece: Piece) -> Sequence[tuple[str, int | None]]:
        if piece.data:
            return ((piece.text, None),) if piece.text else ()
        return self._split_fixed(piece.text) if len(piece.text) <= _FIXED else self._split_at_controls(piece.text)

    def _left_behind(self, piece: Piece, left: _Left) -> _Left:
        """Return what stands before the piece that follows this one."""
        if piece.begins:
            return _Left()
        if piece.ids is not None:
            if not piece.ids:
                return left
            last = self.control_text(piece.ids[-1])
            return _Left(Place.TEXT) if last is None else self._left_of(last, piece.ids[-1], left)
        for text, control in self._split(piece):
            left = self._left_of(text, control, left)
        return left

    def _left_of(self, text: str, control: int | None, left: _Left) -> _Left:
        if control is not None:
            return _Left(Place.CONTROL, text if control in self._grasping else "")
        if left.text and left.place is Place.CONTROL and not text.strip():
            return _Left(Place.CONTROL, left.text + text)  # blanks that the control token takes
        return _Left(Place.TEXT, (left.text + text)[-_WORD:] if self._joints.needs_left else "")

    def _split_at_controls(self, text: str) -> tuple[tuple[str, int | None], ...]:
        """Return a fixed text's parts: (plain text, None) and (control token, its id)."""
        parts: list[tuple[str, int | None]] = []
        position = 0
        for match in self._control.finditer(text):
            if match.start() > position:
                parts.append((text[position : match.start()], None))
            parts.append((match.group(), self._control_ids[match.group()]))
            position = match.end()
        if position < len(text):
            parts.append((text[position:], None))
        return tuple(parts)

    def _encode_texts(self, texts: list[tuple[str, _Left]]) -> list[list[int]]:
        """Encode texts in which nothing is a control token."""
        found: dict[tuple[str, _Left], list[int]] = {}
        for place in Place:
            clean = [key for key in texts if key[1] == (place, "") and self._control.search(key[0]) is None]
            there = self._joints.tokenizer_at(place)
            encoded = there.encode_batch_fast([text for text, _ in clean], add_special_tokens=False) if clean else ()
            found |= {key: encoding.ids for key, encoding in zip(clean, encoded, strict=True)}
        return [
            found[key]
            if key in found and self._joints.added.keys().isdisjoint(found[key])
            else self._encode_alone(*key)
            for key in texts
        ]

    def _encode_alone(self, text: str, left: _Left) -> list[int]:
        return [token for _, part in self._encode_plain(text, left) for token in part.ids]

    def _encode_mixed(self, text: str, run: list[_Part], left: _Left) -> tuple[list[int], list[float]]:
        """Encode parts of a text that differ in weight, or hold control tokens; a token belongs to the part it ends in.

        A control token belongs to the part that spells it, whatever blanks it takes.
        """
        ends = list(accumulate(len(part.text) for part in run))
        tokens: list[int] = []
        weights: list[float] = []
        for start, part in self._encode_with_controls(text, run, left):
            tokens += part.ids
            for token, (low, high) in zip(part.ids, part.offsets, strict=True):
                last = start + max(low, high - 1)
                if token in self._grasping:  # or a character that the vocabulary lacks
                    spelled = text.find(self._texts[token], start + low, start + high)
                    last = last if spelled < 0 else spelled
                weights.append(run[bisect_right(ends, last)].weight)
        return tokens, weights

    def _encode_with_controls(self, text: str, run: list[_Part], left: _Left) -> list[tuple[int, EncodedPart]]:
        """Encode a run whose control tokens the tokenizer finds by itself; returns (offset in the text, part) pairs."""
        wanted = [part.control for part in run if part.control is not None]
        if not wanted:
            return self._encode_plain(text, left)
        starts = [0, *accumulate(len(part.text) for part in run)]
        gaps: list[tuple[int, int]] = [(0, 0)]
        for part, end in zip(run, starts[1:], strict=True):
            if part.control is not None:
                gaps.append((end, end))
            else:
                gaps[-1] = gaps[-1][0], end
        cuts = [0, *(cut for low, high in gaps for cut in self._cuts(text, low, high)), len(text)]
        found = self._encode_between(text, cuts, left)
        if [token for _, part in found for token in part.ids if token in self._forbidden] == wanted:
            return found
        # The tokenizer does not find its own control token here, or found one in somebody's words.
        found = []
        for part, start, end in zip(run, starts, starts[1:], strict=False):
            if part.control is not None:
                found.append((start, EncodedPart([part.control], [(0, end - start)])))
                left = _Left(Place.CONTROL)
            else:
                found += [(start + offset, part) for offset, part in self._encode_plain(text[start:end], left)]
                left = _Left(Place.TEXT)
        return found

    def _encode_plain(self, text: str, left: _Left) -> list[tuple[int, EncodedPart]]:
        """Encode a text in which nothing is a control token; returns (offset in the text, part) pairs."""
        parts = self._encode_between(text, [0, *self._cuts(text, 0, len(text)), len(text)], left)
        if all(self._forbidden.isdisjoint(part.ids) for _, part in parts):
            return parts
        # The tokenizer's normalizer made a control token out of look-alikes: single characters can't become one.
        return self._encode_between(text, range(len(text) + 1), left)

    def _cuts(self, text: str, start: int, end: int) -> list[int]:
        """Return where to cut a text so that no part of it spells a control token: behind the first character."""
        cuts: list[int] = []
        while match := self._control.search(text, start, end):
            start = match.start() + 1
            cuts.append(start)
        return cuts

    def _encode_between(self, text: str, cuts: Sequence[int], left: _Left) -> list[tuple[int, EncodedPart]]:
        parts: list[tuple[int, EncodedPart]] = []
        for start, end in pairwise(cuts):
            if start < end:
                parts.append((start, self._joints.encode(text[start:end], *left)))
                left = _Left(Place.TEXT, text[max(0, end - _WORD) : end] if self._joints.needs_left else "")
        return parts


def _grasps(token: AddedToken) -> bool:
    return token.lstrip or token.rstrip or token.single_word
