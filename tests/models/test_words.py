"""The word list, made-up words and splits."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.cookbook.words import english_words, pseudo_word, pseudo_words, split_of, words


def test_list_is_sorted_lower_case_and_short() -> None:
    listed = english_words()
    assert len(listed) > 1000
    assert list(listed) == sorted(set(listed))
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) <= 14 for word in listed)


def test_every_word_of_the_list_is_in_exactly_one_split() -> None:
    train, held_out = words("train"), words("held_out")
    assert sorted(train + held_out) == list(english_words())
    assert not set(train) & set(held_out)
    assert 0.05 < len(held_out) / len(english_words()) < 0.15


def test_pseudo_words_of_the_two_splits_are_disjoint() -> None:
    train, held_out = pseudo_words(2000, "train", seed=1), pseudo_words(500, "held_out", seed=2)
    assert not set(train) & set(held_out)
    assert len(set(train)) == 2000
    assert {split_of(word) for word in held_out} == {"held_out"}


def test_same_seed_same_words() -> None:
    assert pseudo_words(50, "train", seed=3) == pseudo_words(50, "train", seed=3)
    assert pseudo_words(50, "train", seed=3) != pseudo_words(50, "train", seed=4)


@given(st.integers(), st.integers(2, 14))
def test_pseudo_word_has_the_length_asked_for(seed: int, length: int) -> None:
    word = pseudo_word(Random(seed), length)
    assert len(word) == length
    assert word.isascii()
    assert word.isalpha()
    assert word.islower()


def test_pseudo_words_come_in_all_lengths() -> None:
    rng = Random(5)
    assert {len(pseudo_word(rng)) for _ in range(500)} == set(range(2, 15))


@pytest.mark.parametrize("length", [0, 1, 15])
def test_length_outside_the_range_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"length: got {length}, expected 2 <= length <= 14"):
        pseudo_word(Random(0), length)


@given(st.text(alphabet="abcxyz", min_size=1))
def test_split_ignores_case(word: str) -> None:
    assert split_of(word) == split_of(word.upper())
