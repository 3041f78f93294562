"""The pig-latin set: the course's examples, disjoint splits, anyone's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinsmith.cookbook.datasets.pig_latin import draw_words, pig_latin, read_words, row
from tinsmith.types.errors import UserError


@pytest.mark.row(64)
@pytest.mark.parametrize(
    ("word", "translated"),
    [("hello", "ellohay"), ("goodbye", "oodbyegay"), ("world", "orldway"), ("apple", "ppleaay"), ("a", "aay")],
)
def test_pig_latin_as_the_course_has_it(word: str, translated: str) -> None:
    assert pig_latin(word) == translated


def test_a_row_is_a_conversation() -> None:
    assert row("goodbye")["messages"] == [
        {"role": "user", "content": "translate: goodbye"},
        {"role": "assistant", "content": "oodbyegay"},
    ]


@pytest.mark.row(64)
def test_splits_are_disjoint_and_repeat_by_seed() -> None:
    train, test = draw_words("train", 4000, seed=1), draw_words("held_out", 400, seed=1)
    assert (len(set(train)), len(set(test))) == (4000, 400)
    assert not set(train) & set(test)
    assert not set(draw_words("train", 4000, seed=2)) & set(draw_words("held_out", 400, seed=3))
    assert draw_words("train", 50, seed=1) == draw_words("train", 50, seed=1)
    assert draw_words("train", 50, seed=1) != draw_words("train", 50, seed=2)
    assert {len(word) for word in train} == set(range(1, 15))


def test_excluded_words_are_not_drawn() -> None:
    train = draw_words("train", 200, seed=1)
    assert not set(draw_words("train", 400, seed=1, exclude=[word.upper() for word in train[:50]])) & set(train[:50])


@pytest.mark.row(64)
def test_anyones_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Hello\n\nzebra\nhello\n")
    assert read_words(path) == ["hello", "zebra"]


@pytest.mark.parametrize("line", ["two words", "don't", "caf\u00e9", "x" * 15, "7"])
def test_a_line_that_is_no_word_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(f"hello\n{line}\n")
    with pytest.raises(UserError, match=r"words.txt, line 2: got .* expected one word of 1 to 14 letters a to z"):
        read_words(path)


def test_files_without_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere', expected a file of words that can be read \(No such file"):
        read_words(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(UserError, match="at least one word"):
        read_words(tmp_path / "empty")
    (tmp_path / "bytes").write_bytes(b"ok\n\xff\xfe\n")
    with pytest.raises(UserError, match="bytes, line 2: got bytes that are not UTF-8"):
        read_words(tmp_path / "bytes")
