"""What a model is trained on: examples token by token, with their weights, in the terminal or as a page.

    python -m tinsmith.cookbook.supervised.viewer data=conversations.jsonl model_name=tinsmith-tiny count=3
    python -m tinsmith.cookbook.supervised.viewer data=conversations.jsonl html=examples.html

Learned tokens are green (red where their weight is negative); shades alternate from token to token. Where there are no
colours, tokens are parted by │ and learned ones stand in « ».
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import chz
from rich.console import Console
from rich.text import Text

import tinsmith
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.renderers import TrainOnWhat
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.rows.sources import load_rows
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.fields import check_types
from tinsmith.cookbook.runs.jsonl import replace_text
from tinsmith.cookbook.runs.transcripts.visible import visible
from tinsmith.cookbook.supervised.view import View, to_page, to_text, totals, views
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid


@chz.chz
class Config:
    data: str | None = chz.field(default=None, doc="a file, data set or mixture, as for training; None: pig latin")
    model_name: str = chz.field(default="tinsmith-tiny", doc="a name that the service knows, or a checkpoint folder")
    renderer_name: str | None = chz.field(default=None, doc="chat format; None: the model's own")
    train_on_what: TrainOnWhat = chz.field(default=TrainOnWhat.ALL_ASSISTANT_MESSAGES, doc="which messages are learned")
    max_length: int | None = chz.field(
        default=None, validator=at_least(2), doc="longer examples are cut to so many tokens; None: whole"
    )
    skip_bad_rows: bool = chz.field(default=False, doc="leave out rows of a file that cannot be used; they are counted")
    text_control_tokens: bool = chz.field(
        default=False, doc="read control tokens that are spelled in `text` rows (<|user|>, </s>) as tokens, not as text"
    )
    text_eos: bool = chz.field(default=False, doc="end each `text` row with the tokenizer's end token")
    first: int = chz.field(default=0, validator=at_least(0), doc="rows to pass over before the first one shown")
    count: int = chz.field(default=3, validator=at_least(1), doc="rows to show")
    html: str | None = chz.field(default=None, doc="page to write; None: to the terminal")

    @chz.validate
    def _types(self) -> None:
        check_types(self)


def main(config: Config) -> None:
    """Show the examples that a config names."""
    # No service: looking at data needs a tokenizer and nothing that runs a model.
    tokenizer = tinsmith.get_tokenizer(config.model_name)
    renderer = renderer_of(config.model_name, tokenizer, config.renderer_name)
    rows = load_rows(
        config.data,
        renderer=renderer,
        train_on_what=config.train_on_what,
        skip_bad_rows=config.skip_bad_rows,
        text_control_tokens=config.text_control_tokens,
        text_eos=config.text_eos,
    )
    # Of a stream, so many rows are read and no more.
    chosen = list(islice(_placed(rows), config.first, config.first + config.count))
    if not chosen:
        raise invalid("first", config.first, "fewer rows than the data have")
    found = list(views(chosen, renderer, tokenizer, max_length=config.max_length, train_on_what=config.train_on_what))
    if config.html is None:
        show(found)
    else:
        write(found, Path(config.html), f"{config.data or 'pig latin'}, {config.model_name}, {renderer.name}")


def show(found: Sequence[View]) -> None:
    """Print examples and their counts."""
    console = Console(highlight=False)
    colours = console.color_system is not None
    for view in found:
        console.print(Text(visible(view.summary()), "bold"), soft_wrap=True)
        console.print(to_text(view, colours=colours), soft_wrap=True)
        console.print()
    console.print(Text(", ".join(f"{name} {value}" for name, value in totals(found).items())), soft_wrap=True)


def write(found: Sequence[View], path: Path, title: str) -> None:
    """Write the page of examples.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        replace_text(path, to_page(found, title).html())
    except OSError as error:
        raise invalid("html", str(path), f"a file that can be written ({error.strerror})") from error
    print(f"{path}: {len(found)} examples")


def _placed(rows: Sequence[Row] | RowStream) -> Iterator[tuple[str, Row]]:
    """Yield the rows in their order, a stream's in the one that training has."""
    if isinstance(rows, RowStream):
        return rows.epoch(0)
    known = as_rows(rows)
    return ((known.place(index), known.read(index)) for index in range(len(known)))


if __name__ == "__main__":
    run_recipe(main, Config, "viewer")
