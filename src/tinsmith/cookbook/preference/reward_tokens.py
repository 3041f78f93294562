"""The two tokens whose log-odds are a reward model's scalar."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinsmith.cookbook.renderers.encoding import fast_tokenizer
from tinsmith.types.errors import invalid

# Tokens that a model has and never says: reserved ones, or those of images in a model that reads text. The last pair is
# said, but not behind the end of a turn, where a verdict stands.
_PAIRS = (
    ("<|reserved_0|>", "<|reserved_1|>"),  # the embedded model
    ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),  # Llama 3
    ("<|object_ref_start|>", "<|object_ref_end|>"),  # Qwen 2.5 and 3
    ("<｜place▁holder▁no▁0｜>", "<｜place▁holder▁no▁1｜>"),
    ("<|reserved_200000|>", "<|reserved_200001|>"),  # gpt-oss
    ("+", "-"),
)


class RewardTokens(NamedTuple):
    """Ids of two tokens: the score of an answer is log p(good) - log p(bad) for the token behind it."""

    good: int
    bad: int


def reward_tokens(tokenizer: Any) -> RewardTokens:
    """Return the two tokens of a model; the same tokenizer gives the same ones, so nothing has to be kept of them.

    Raises:
        UserError: it is no fast tokenizer, or has none of the pairs.
    """
    backend = fast_tokenizer(tokenizer)
    for good, bad in _PAIRS:
        good_id, bad_id = backend.token_to_id(good), backend.token_to_id(bad)
        if good_id is not None and bad_id is not None:
            return RewardTokens(good_id, bad_id)
    pairs = ", ".join(f"{good} and {bad}" for good, bad in _PAIRS)
    raise invalid("tokenizer", f"{backend.get_vocab_size()} tokens", f"a pair of tokens for scores: {pairs}")
