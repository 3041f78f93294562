"""When a generation ends: at a token, or when its text contains a string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Decode = Callable[[list[int]], str]


class StopRule(Protocol):
    """Told each generated token once, in order; True ends the generation, that token included."""

    def push(self, token: int) -> bool:
        """Take the next token and return whether the generation ends with it."""
        ...


class TokenStop:
    """Ends at any of some tokens; with none, never."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = frozenset(tokens)

    def push(self, token: int) -> bool:
        """Return whether this token is a stop token."""
        return token in self._tokens


class TextStop:
    """Ends when the decoded text of the generated tokens contains any of some strings.

    Equal to decoding everything anew after each token, at a cost that does not grow with the text: only a window at
    the end is decoded, wide enough to hold any stop string that a new token can complete. The window is decoded as
    a whole, so a character whose bytes come from several tokens is seen when its last byte is there. Special tokens
    count with their text, so that "<|im_end|>" works as a stop string.
    """

    def __init__(self, stops: Sequence[str], decode: Decode) -> None:
        self._stops = tuple(stops)
        self._decode = decode
        # Text before a new token that a match can reach back to, and slack: the window may cut its first character
        # and its last may be incomplete, each up to three bytes that decode to U+FFFD.
        self._reach = max(len(stop) for stop in stops) + 8
        self._window: list[int] = []
        self._limit = 2 * self._reach

    def push(self, token: int) -> bool:
        """Return whether the text contains a stop string now."""
        self._window.append(token)
        # Decoded anew each time: what a token reads as can depend on the tokens before it.
        text = self._decode(self._window)
        if any(stop in text for stop in self._stops):
            return True
        if len(self._window) > self._limit:
            self._shorten()
        return False

    def _shorten(self) -> None:
        """Drop the older half if the rest still decodes to enough text; else let the window grow twice as long."""
        rest = self._window[len(self._window) // 2 :]
        if len(self._decode(rest)) >= self._reach:
            self._window = rest
        else:
            self._limit = 2 * len(self._window)


def stop_rule(stop: str | Sequence[str | int] | None, eos: Sequence[int], decode: Decode | None) -> StopRule:
    """Make the rule of one generation.

    Args:
        stop: None ends at the model's end-of-turn tokens, an empty list never; strings or token ids replace them.
        eos: the model's end-of-turn tokens.
        decode: text of tokens, special tokens included; None where the model has no tokenizer.

    The stops have been checked: all of one kind, and strings only where there is a tokenizer.
    """
    if stop is None:
        return TokenStop(eos)
    stops = [stop] if isinstance(stop, str) else stop
    texts = [item for item in stops if isinstance(item, str)]
    if not texts:
        return TokenStop([item for item in stops if isinstance(item, int)])
    assert decode is not None
    return TextStop(texts, decode)
