"""When an answer is right: it has the same words, whatever their capitals, articles and punctuation.

After the evaluation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1), except that a number stays whole:
3.5 is not 35, and -2 is not 2.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
# A number with its sign, thousands and decimals, or a word.
_PART = re.compile(r"(?:(?<!\w)-)?\d+(?:,\d{3})*(?:\.\d+)?|\w+")


def words_of(text: str) -> list[str]:
    """Return what is compared of a text."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [part.replace(",", "") for part in _PART.findall(folded) if part not in _ARTICLES]


def exact_match(said: str, answers: Sequence[str]) -> bool:
    """Return whether a text is one of the answers."""
    return words_of(said) in [words_of(answer) for answer in answers]


def f1_score(said: str, answers: Sequence[str]) -> float:
    """Return how far a text and the nearest of the answers have the same words: 2PR / (P + R) of words in common."""
    return max((_f1(words_of(said), words_of(answer)) for answer in answers), default=0.0)


def contains(text: str, answers: Sequence[str]) -> bool:
    """Return whether one of the answers stands in a text."""
    # Spaces at the ends: of a word, no part counts.
    within = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(answer))} " in within for answer in answers)


def _f1(said: list[str], answer: list[str]) -> float:
    common = sum((Counter(said) & Counter(answer)).values())
    return 2 * common / (len(said) + len(answer)) if common else 0.0
