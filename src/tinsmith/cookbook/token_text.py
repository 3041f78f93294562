"""What each token of an example spells, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.encoding import fast_tokenizer

# Stands for a token that ends inside a character; the token that completes it has the character.
PART = "◌"
_REPLACEMENT = "\ufffd"
# Bytes of a character in UTF-8, at most.
_LONGEST = 4


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return what each token spells, control tokens included.

    A character that several tokens spell is in the last of them, the others are `PART`.

    Args:
        tokenizer: of the SDK or of `transformers`.
        tokens: ids.

    Raises:
        UserError: it is no fast tokenizer.
    """
    backend = fast_tokenizer(tokenizer)
    texts: list[str] = []
    # Decoded behind what was complete before: some decoders drop a space at the beginning of a text.
    before: list[int] = []
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        known = backend.decode(before, skip_special_tokens=False)
        text = backend.decode([*before, *pending], skip_special_tokens=False)[len(known) :]
        if text.endswith(_REPLACEMENT) and len(pending) < _LONGEST:
            texts.append(PART)
            continue
        texts.append(text)
        before, pending = pending, []
    return texts
