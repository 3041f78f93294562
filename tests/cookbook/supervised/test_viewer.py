"""The viewer: tokens with their weights in a terminal and on a page, whatever the texts hold."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.cookbook.renderers.formats import byte_tokenizer, hostile_text, merging_tokenizer
from tinsmith.cookbook.renderers import SupervisedExample, get_renderer
from tinsmith.cookbook.supervised.view import View, to_page, to_text, totals, views
from tinsmith.cookbook.supervised.viewer import Config, main
from tinsmith.cookbook.token_text import PART, token_texts

TOKENIZER = merging_tokenizer("qwen3", "qwen3")
RENDERER = get_renderer("qwen3_instruct", TOKENIZER)


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def view_of(row: dict[str, Any], max_length: int | None = None) -> View:
    (found,) = views([("here", row)], RENDERER, TOKENIZER, max_length=max_length)
    return found


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[PART, "\ufffd"]), max_size=20))
def test_token_texts_are_the_text(text: str) -> None:
    ids = TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids
    texts = token_texts(TOKENIZER, ids)
    assert len(texts) == len(ids)
    assert "".join(text for text in texts if text != PART) == TOKENIZER.decode(ids)
    assert token_texts(TOKENIZER, TOKENIZER.encode("<|im_end|>")) == ["<|im_end|>"]


def test_a_character_of_several_tokens_is_in_the_last_of_them() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    ids = tokenizer.encode("a日🙂b", add_special_tokens=False)
    assert token_texts(tokenizer, ids) == ["a", PART, PART, "日", PART, PART, PART, "🙂", "b"]
    assert token_texts(tokenizer, ids[1:3]) == [PART, PART]
    assert token_texts(tokenizer, [*ids[1:3], ids[0]]) == [PART, PART, "\ufffda"]


def test_a_view_counts_what_training_counts() -> None:
    whole = view_of(chat("hello there", "the fox"))
    assert whole.whole == len(whole.example.tokens) == len(whole.texts)
    assert whole.trained == sum(whole.example.weights)
    assert f"here: {whole.whole} tokens, {whole.trained} trained (" in whole.summary()
    # The end marker and the line break after it, which is not learned, are cut.
    short = view_of(chat("hello there", "the fox"), max_length=whole.whole - 2)
    assert f"{whole.whole - 2} tokens, cut from {whole.whole}, {whole.trained - 1} trained" in short.summary()
    nothing = view_of(chat("hello there", "the fox"), max_length=4)
    assert totals([whole, short, nothing]) == {
        "examples": 3,
        "tokens": whole.whole * 2 - 2 + 4,
        "trained": 2 * whole.trained - 1,
        "truncated": 2,
        "without weight": 1,
    }


def test_colours_and_marks_say_which_tokens_are_learned() -> None:
    view = view_of(chat("hello", "the"))
    coloured = to_text(view)
    learned = "".join(coloured.plain[s.start : s.end] for s in coloured.spans if "color(255)" in str(s.style))
    assert learned == "the<|im_end|>"
    assert len({str(span.style) for span in coloured.spans}) == 4  # two shades each of learned and read
    borders = zip(coloured.spans, coloured.spans[1:], strict=False)
    assert all(a.end == b.start and a.style != b.style for a, b in borders)
    plain = to_text(view, colours=False).plain
    marked = "│".join(text for text, weight in zip(view.texts, view.example.weights, strict=True) if weight)
    assert f"│«{marked}»│" in plain
    against = View("x", SupervisedExample([1, 2], [1.0, -1.0]), ["a", "b"], 2)
    assert "color(88)" in str(to_text(against).spans[1].style) or "color(124)" in str(to_text(against).spans[1].style)


@given(text=hostile_text | st.text(max_size=20).filter(str.strip))
def test_hostile_text_changes_neither_the_page_nor_the_terminal(text: str) -> None:
    hostile = f"</b><script>{text}\x1b[2J\u202e[red]"
    view = View(hostile, SupervisedExample([1, 2], [0.0, 1.0]), ["a", hostile], 2)
    page = to_page([view], hostile).html()
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "[2J⟨U+202E⟩[red]" in html.unescape(page)
    console = Console(record=True, force_terminal=False, width=200)
    with console.capture() as said:
        console.print(to_text(view, colours=False), soft_wrap=True)
    assert "\x1b" not in said.get()
    assert "␛[2J⟨U+202E⟩[red]" in said.get()


def test_the_command_shows_rows_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [chat("a", "b"), {"text": "once upon"}, chat("c", "d")]))
    main(Config(data=str(data), first=1, count=5))
    said = capsys.readouterr().out
    assert f"{data}, line 1" not in said
    assert f"{data}, line 2: 9 tokens, 8 trained (100%)" in said
    assert f"{data}, line 3: " in said
    assert "<|assistant|>│«d│<|end|>»" in said
    assert "examples 2, tokens" in said
    main(Config(data=str(data), html=str(tmp_path / "page.html"), max_length=8))
    assert capsys.readouterr().out == f"{tmp_path}/page.html: 3 examples\n"
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="run"') == 3
    assert "cut from 9" in page
    assert re.search(r'title="token 1 · id \d+ · weight 1"', page)


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first: got 20000, expected fewer rows than the data have"):
        main(Config(first=20_000))
    with pytest.raises(ValueError, match=r"html: got '.*none/page.html', expected a file that can be written"):
        main(Config(html=str(tmp_path / "none" / "page.html")))
