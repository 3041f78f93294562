"""How many bytes of text each token spells, so that losses of different tokenizers can be compared."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tinsmith.cookbook.renderers.encoding import fast_tokenizer

# How a vocabulary with byte fallback names a byte.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def token_bytes(tokenizer: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the UTF-8 bytes that each token of a vocabulary stands for, by id; special tokens stand for none.

    Args:
        tokenizer: of the SDK or of `transformers`.

    Raises:
        UserError: it is no fast tokenizer.
    """
    return _table(fast_tokenizer(tokenizer))


# A pass over the whole vocabulary; held-out and training rows share its result.
@functools.lru_cache(maxsize=4)
def _table(backend: Tokenizer) -> np.ndarray[Any, np.dtype[np.int64]]:
    vocab = backend.get_vocab(with_added_tokens=True)
    # A byte-level vocabulary spells every byte as one character; others have "▁" for a space.
    byte_level = "ByteLevel" in repr(backend.decoder)
    table = np.zeros(max(vocab.values()) + 1, dtype=np.int64)
    for token, index in vocab.items():
        if byte_level:
            table[index] = len(token)
        else:
            table[index] = 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())
    # Last, because added tokens are in the vocabulary too, spelled as they are and not byte by byte.
    for index, added in backend.get_added_tokens_decoder().items():
        table[index] = 0 if added.special else len(added.content.encode())
    return table
