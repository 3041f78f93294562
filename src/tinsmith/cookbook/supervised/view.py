"""Training examples token by token, with their weights: as text for a terminal, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.text import Text

from tinsmith.cookbook.batches.datums import cut
from tinsmith.cookbook.batches.examples import row_to_examples
from tinsmith.cookbook.renderers import Renderer, SupervisedExample, TrainOnWhat
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.runs.transcripts.transcript import Page
from tinsmith.cookbook.runs.transcripts.visible import visible
from tinsmith.cookbook.token_text import token_texts

# Two shades each, which alternate, of tokens that are read, learned, and unlearned.
_READ = ("color(252) on color(235)", "color(252) on color(239)")
_LEARNED = ("color(255) on color(22)", "color(255) on color(28)")
_UNLEARNED = ("color(255) on color(88)", "color(255) on color(124)")


@dataclass(frozen=True)
class View:
    """An example to look at.

    Attributes:
        place: where its row lies, and which of the row's examples it is.
        example: its tokens and weights, cut where it is too long.
        texts: what each token spells.
        whole: tokens before it was cut.
    """

    place: str
    example: SupervisedExample
    texts: list[str]
    whole: int

    @property
    def trained(self) -> int:
        """Tokens that are learned: with a weight, and with a token before them."""
        # As a datum has it: the first token is only read.
        return sum(weight != 0 for weight in self.example.weights[1:])

    def summary(self) -> str:
        """Return place and counts in one line."""
        count = len(self.example.tokens)
        cut_off = f", cut from {self.whole}" if self.whole > count else ""
        share = self.trained / max(count - 1, 1)
        return f"{self.place}: {count} tokens{cut_off}, {self.trained} trained ({share:.0%})"


def views(
    rows: Iterable[tuple[str, Row]],
    renderer: Renderer,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
) -> Iterator[View]:
    """Yield the examples of rows as training has them.

    Args:
        rows: (place, row) pairs.
        renderer, tokenizer: of the model that would be trained.
        max_length: tokens kept of a longer example; None keeps all.
        train_on_what: which messages are learned.

    Raises:
        UserError: a row cannot be rendered.
    """
    for place, row in rows:
        examples = row_to_examples(row, renderer, tokenizer, train_on_what)
        for number, example in enumerate(examples, 1):
            kept, _ = cut(example, max_length)
            where = place if len(examples) == 1 else f"{place}, example {number} of {len(examples)}"
            yield View(where, kept, token_texts(tokenizer, kept.tokens), len(example.tokens))


def to_text(view: View, *, colours: bool = True) -> Text:
    """Return the tokens of an example for a terminal; whatever they spell, they change nothing but the text."""
    said = Text()
    shown = [visible(text, spaces=True) for text in view.texts]
    # Two shades in turn, so that one sees where a token ends.
    if colours:
        for place, (text, weight) in enumerate(zip(shown, view.example.weights, strict=True)):
            shades = _LEARNED if weight > 0 else _UNLEARNED if weight < 0 else _READ
            said.append(text, shades[place % 2])
        return said
    parts: list[str] = []
    for learned, stretch in groupby(zip(shown, view.example.weights, strict=True), key=lambda pair: pair[1] != 0):
        text = "│".join(text for text, _ in stretch)
        parts.append(f"«{text}»" if learned else text)
    return said.append("│".join(parts))


def to_page(found: Sequence[View], title: str) -> Page:
    """Return a page of examples; the pointer shows place, id and weight of each token."""
    page = Page(title)
    page.table([totals(found)])
    for view in found:
        page.heading(view.summary())
        page.tokens(view.texts, weights=view.example.weights, ids=view.example.tokens)
    return page


def totals(found: Sequence[View]) -> dict[str, object]:
    """Return the counts of all examples."""
    return {
        "examples": len(found),
        "tokens": sum(len(view.example.tokens) for view in found),
        "trained": sum(view.trained for view in found),
        "truncated": sum(view.whole > len(view.example.tokens) for view in found),
        "without weight": sum(not view.trained for view in found),
    }
