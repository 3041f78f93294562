"""From pieces of text to token ids: a control token stands only where a renderer wrote it, never in somebody's text.

Plain text between two control tokens is encoded in one go, because byte-pair merges may cross a piece's border; a
`seam` is a border that merges must not cross (where a generation prompt ends).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

from tinsmith.cookbook.renderers.text import check_unicode
from tinsmith.types.errors import invalid

# Texts up to this length come again and again (roles, line breaks): their ids are kept.
_SHORT = 16
# A format's own texts are no longer than this; whole conversations, rendered by a template, are not kept.
_FIXED = 2048
_MARKUP = re.compile(r"[<\[｜]\S.*[>\]｜]", re.DOTALL)


class Piece(NamedTuple):
    """A stretch of a rendered conversation.

    Attributes:
        text: the text.
        data: somebody's words; control tokens spelled in it stay text.
        spoken: part of what the turn's author says (content and end marker), so that it can carry weight.
        seam: no token spans the border before this piece.
        ids: the piece's tokens where they are known (they were sampled); `text` is not read then.
    """

    text: str
    data: bool = False
    spoken: bool = False
    seam: bool = False
    ids: tuple[int, ...] | None = None


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
        self._control_ids: dict[str, int] = {
            token.content: index for index, token in added.items() if token.special or _MARKUP.fullmatch(token.content)
        }
        names = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._ids = frozenset(self._control_ids.values())
        self._texts = {index: text for text, index in self._control_ids.items()}
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

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, control tokens spelled out."""
        return self.backend.decode(list(tokens), skip_special_tokens=False)

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Return the token ids of pieces."""
        return self.encode_weighted(pieces, [0.0] * len(pieces))[0]

    def encode_prefill(self, prefill: str | None) -> list[int]:
        """Return the ids that the beginning of an answer adds to a prompt.

        Raises:
            UserError: it is no text.
        """
        if prefill is None:
            return []
        if not isinstance(prefill, str):
            raise invalid("prefill", prefill, "a string")
        check_unicode(prefill, "prefill")
        return self.encode([Piece(prefill)])

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
        run: list[tuple[str, float]] = []
        # Long texts of one weight, by their place in `stretches`: encoded last, all at once.
        waiting: dict[int, str] = {}

        def flush() -> None:
            if not run:
                return
            text = "".join(part for part, _ in run) if len(run) > 1 else run[0][0]
            weight = run[0][1]
            if any(other != weight for _, other in run):
                stretches.append(self._encode_mixed(text, run))
            elif len(text) <= _SHORT:
                stretches.append((self._encode_short(text), weight))
            else:
                waiting[len(stretches)] = text
                stretches.append(((), weight))
            run.clear()

        for piece, weight in zip(pieces, weights, strict=True):
            if piece.ids is not None:
                flush()
                stretches.append((piece.ids, weight))
                continue
            if piece.seam:
                flush()
            if piece.data:
                if piece.text:
                    run.append((piece.text, weight))
                continue
            split = self._split_fixed if len(piece.text) <= _FIXED else self._split_at_controls
            for text, control in split(piece.text):
                if control is None:
                    run.append((text, weight))
                else:
                    flush()
                    stretches.append(((control,), weight))
        flush()
        for place, ids in zip(waiting, self._encode_texts(list(waiting.values())), strict=True):
            stretches[place] = (ids, stretches[place][1])
        return stretches

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

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Encode texts in which nothing is a control token."""
        clean = [text for text in texts if self._control.search(text) is None]
        encoded = iter(self.backend.encode_batch_fast(clean, add_special_tokens=False) if clean else ())
        found = {text: encoding.ids for text, encoding in zip(clean, encoded, strict=True)}
        return [
            found[text] if text in found and self._ids.isdisjoint(found[text]) else self._encode_alone(text)
            for text in texts
        ]

    def _encode_alone(self, text: str) -> list[int]:
        return [token for _, encoding in self._encode_plain(text) for token in encoding.ids]

    def _encode_mixed(self, text: str, run: list[tuple[str, float]]) -> tuple[list[int], list[float]]:
        """Encode parts of a text that differ in weight; a token belongs to the part in which it ends."""
        ends = list(accumulate(len(part) for part, _ in run))
        tokens: list[int] = []
        weights: list[float] = []
        for start, encoding in self._encode_plain(text):
            tokens += encoding.ids
            weights += [run[bisect_right(ends, start + max(low, high - 1))][1] for low, high in encoding.offsets]
        return tokens, weights

    def _encode_plain(self, text: str) -> list[tuple[int, Encoding]]:
        """Encode a text in which nothing is a control token; returns (offset in the text, encoding) pairs."""
        # A cut behind the first character of a spelled-out control token leaves no part in which it is whole.
        cuts = [0]
        while match := self._control.search(text, cuts[-1]):
            cuts.append(match.start() + 1)
        cuts.append(len(text))
        parts = [(a, self.backend.encode(text[a:b], add_special_tokens=False)) for a, b in pairwise(cuts) if a < b]
        if all(self._ids.isdisjoint(encoding.ids) for _, encoding in parts):
            return parts
        # The tokenizer's normalizer made a control token out of look-alikes: single characters can't become one.
        return [(i, self.backend.encode(c, add_special_tokens=False)) for i, c in enumerate(text)]
