"""Pages of a run: whole, self-contained, without scripts, and safe whatever a model says."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.cookbook.runs import Run, RunConfig, Transcript
from tinsmith.cookbook.runs.transcripts.visible import visible
from tinsmith.types.errors import UserError

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = (
    "</div></body></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\x00\x1b[31m\u202eevil\u2066\ud800 'q\" &amp;"
)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order; keeps names, attributes and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag != "style")


def check(page: Page) -> None:
    """No script, nothing fetched from anywhere, no handler of events."""
    assert {tag for tag, _ in page.elements} <= set(
        "html head meta title style body header h1 h2 div p a ul li b bdi".split()  # noqa: SIM905
        + "table thead tbody tr th td svg polyline".split()  # noqa: SIM905
    )
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "srcset") for name in attributes)
    assert all((a["href"] or "").endswith(".html") and "/" not in (a["href"] or "") for a in page.of("a"))
    policy = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.mark.row(113)
def test_a_run_writes_a_page_for_a_step_and_an_index_of_all(tmp_path: Path) -> None:
    with Run(RunConfig(log_path=str(tmp_path)), "recipe") as run:
        for step in (0, 10):
            with run.transcript(step) as page:
                page.heading("Answers")
                page.text("first line\nsecond line")
                page.conversation(
                    [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": [{"type": "text", "text": "1+1?"}, {"type": "image", "url": "x"}]},
                        {
                            "role": "assistant",
                            "reasoning_content": "two, I think",
                            "content": "2",
                            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
                        },
                    ],
                    note="right",
                )
                page.table([{"word": "hello", "score": 0.123456}, {"word": "apple", "right": True}])
    page = Page(tmp_path / "transcripts" / "step-000010.html")
    check(page)
    for text in (
        "recipe: step 10",
        "Answers",
        "first line\nsecond line",
        "Be brief.",
        "two, I think",
        '"add"',
        "right",
    ):
        assert text in page.text
    assert [text for tag, text in page.texts if tag == "th"] == ["word", "score", "right"]
    assert [text for tag, text in page.texts if tag == "td"] == ["hello", "0.1235", "apple", "True"]
    index = Page(tmp_path / "transcripts" / "index.html")
    check(index)
    assert [link["href"] for link in index.of("a")] == ["step-000010.html", "step-000000.html"]


def test_tokens_are_tinted_by_weight_and_underlined_by_how_unlikely_they_are(tmp_path: Path) -> None:
    with Transcript(tmp_path, 1, "test") as page:
        page.tokens(["a", "\n", "<b>", "c"], weights=[0, 0.5, 1, -1], logprobs=[None, 0.0, -0.6931472, -50])
        with pytest.raises(UserError, match="weights: got '1 numbers', expected 4, one for each token"):
            page.tokens(list("abcd"), weights=[1])
    read = Page(page.path)
    check(read)
    tokens = read.of("b")
    assert [token["style"] for token in tokens] == [
        "--w:0.0;--u:0.0",
        "--w:0.5;--u:0.0",
        "--w:1.0;--u:0.5",
        "--w:1.0;--u:1.0",
    ]
    assert [token.get("class") for token in tokens] == [None, None, None, "against"]
    assert tokens[0]["title"] == "token 0 · weight 0"
    assert tokens[2]["title"] == "token 2 · weight 1 · logprob -0.6931, probability 50.0%"
    assert [text for tag, text in read.texts if tag == "b"] == ["a", "↵\n", "<b>", "c"]


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    with Transcript(tmp_path, 1, HOSTILE) as page:
        page.heading(HOSTILE)
        page.text(HOSTILE)
        page.conversation([{"role": HOSTILE, "content": HOSTILE, "reasoning_content": HOSTILE}], note=HOSTILE)
        page.tokens([HOSTILE], weights=[1], logprobs=[-1])
        page.table([{HOSTILE: HOSTILE}])
    read = Page(page.path)
    check(read)
    shown = (
        "</div></body></script><script>alert(1)</script><img src=x onerror=alert(1)>␀␛[31m⟨U+202E⟩evil⟨U+2066⟩⟨U+D800⟩"
    )
    assert read.text.count(shown) == 11
    check(Page(tmp_path / "index.html"))


@given(st.text(st.characters(codec=None), max_size=40))
@examples(200)
def test_any_text_is_visible_and_can_be_written(text: str) -> None:
    shown = visible(text)
    shown.encode()
    hidden = {unicodedata.category(c) for c in shown if c not in "\n\t\u200c\u200d"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not hidden
    if text.isprintable():
        assert shown == text
    assert visible(shown) == shown


def test_a_disk_that_fails_costs_the_page_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with Transcript(tmp_path / "file", 1, "test") as page:
        page.text("lost")
    assert "this page cannot be written" in caplog.text


TOOL = {"type": "function", "function": {"name": "add", "description": "adds <b>", "parameters": {"a": "number"}}}


def spoken(text: str, **fields: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **fields}


def test_sampled_turns_are_marked_and_tools_are_shown(tmp_path: Path) -> None:
    question = {"role": "user", "content": "1+1?"}
    with Transcript(tmp_path, 1, "test") as page:
        page.conversation([question, spoken("in the data")])
        page.conversation([question, spoken("said", tokens=[1, 2])], tools=[TOOL])
        page.tokens(["a", "b", "c"], weights=[0, 0, -1], logprobs=[None, None, -1], sampled=[False, False, True])
    read = Page(page.path)
    check(read)
    assert read.text.count("assistant · sampled") == 1
    assert "add: adds <b>" in read.text
    assert '{"a": "number"}' in read.text
    assert [token.get("class") for token in read.of("b")] == ["read", "read", "against"]
    assert "pale: read; the rest was sampled" in read.text


def test_the_index_shows_curves_settings_and_the_first_and_last_answers(tmp_path: Path) -> None:
    with Run(RunConfig(log_path=str(tmp_path), max_steps=3), "recipe") as run:
        run.announce(3, 5e-4, {"renderer": "tiny", "rows": 7})
        for step in (0, 1, 2):
            with run.transcript(step) as page:
                page.heading("Sampled answers")
                page.conversation([{"role": "user", "content": "q"}, spoken(f"answer at {step}", sampled=True)])
                page.table([{"not": "an answer"}])
            run.log_metrics(step, {"train/nll": 3.0 - step, "eval/accuracy": float("nan"), "time/step": 1.0})
        run.log_metrics(3, {"test/nll": 0.5})
    index = Page(tmp_path / "transcripts" / "index.html")
    check(index)
    assert "First answers: step 0" in index.text
    assert "Last answers: step 2" in index.text
    assert "answer at 0" in index.text
    assert "answer at 1" not in index.text
    assert "answer at 2" in index.text
    # The row after the last page is there, too; what is no number is no curve.
    curves = [line["points"] for line in index.of("polyline")]
    assert curves == ["0.0,0.0 140.0,45.0 280.0,90.0", "280.0,45.0"]
    assert "3 → 1 at step 2 · 1 to 3" in index.text
    settings = dict(zip(*[iter([t for tag, t in index.texts if tag in ("th", "td")])] * 2, strict=True))
    assert (settings["learning_rate"], settings["renderer"], settings["rows"]) == ("0.0005", "tiny", "7")
    assert "wandb_project" not in settings
    # Taken up again from an earlier step, the first answers are those of now.
    with Transcript(tmp_path / "transcripts", 0, "recipe") as page:
        page.conversation([spoken("anew", sampled=True)])
    assert "anew" in Page(tmp_path / "transcripts" / "index.html").text
