"""Where rows come from: files, data sets of the hub, the set that ships, and mixtures of them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.rows.files.csv_rows import CsvRows
from tinsmith.cookbook.rows.files.file_kinds import check_is_text
from tinsmith.cookbook.rows.files.hub_rows import NAMED, NotReachedError, open_hub
from tinsmith.cookbook.rows.files.jsonl_rows import JsonlRows
from tinsmith.cookbook.rows.files.parquet_rows import ParquetRows
from tinsmith.cookbook.rows.files.table_columns import ColumnCheck, check_columns
from tinsmith.cookbook.rows.mixture import Mixture
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row, row_check
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import Rows, as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.types.errors import invalid

_PIG_LATIN = "pig_latin"
# A hundred batches of 128: enough steps for a first run.
_OFFLINE_WORDS = 12_800
_STREAM = "stream:"
_TABLES = {".csv": CsvRows, ".parquet": ParquetRows}
_FILES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")


def load_rows(
    data: str | None,
    seed: int = 0,
    renderer: Renderer | None = None,
    train_on_what: TrainOnWhat | str | None = None,
    *,
    skip_bad_rows: bool = False,
    text_control_tokens: bool = False,
    text_eos: bool = False,
) -> Sequence[Row] | RowStream:
    """Return the training rows that a `data=` setting names.

    Args:
        data: one of

            - a file: `.jsonl`, `.json`, `.parquet`, or `.csv`, of our rows or those of OpenAI, ShareGPT, Alpaca, ...;
            - a name: `pig_latin`, `no_robots`, `tulu3`; or of any data set of the hub, `owner/name`;
            - `stream:` and the name of a data set of the hub: rows are fetched as they are needed;
            - several files and names with weights, `a.jsonl:0.7,b.parquet:0.3`: a `Mixture`;
            - None: pig latin, which also stands in, with a warning, for a data set that cannot be had offline.
        seed: of the words of pig latin, and of the shuffle of a stream.
        renderer: whose format has to be able to say the conversations; None asks for well-formed ones only.
        train_on_what: what will be learned, so that missing `trainable` flags are found; None leaves them unchecked.
        skip_bad_rows: whether rows that cannot be used are left out, with a warning, or an error.
        text_control_tokens: whether control tokens spelled in `text` rows are read as tokens.
        text_eos: whether `text` rows end with the tokenizer's end token.

    Raises:
        UserError: there are no such data, or they are not well formed; names file and lines.
    """
    check = row_check(renderer, train_on_what, text_control_tokens=text_control_tokens, text_eos=text_eos)
    return _load(data, seed, check, skip_bad_rows)


def load_conversations(
    data: str | None,
    seed: int,
    renderer: Renderer,
    train_on_what: TrainOnWhat | str,
    *,
    skip_bad_rows: bool = False,
) -> Rows:
    """Return the rows that a `data=` setting names, where every row is a conversation: it has `messages`.

    Args:
        data, seed, renderer, train_on_what, skip_bad_rows: as for `load_rows`.

    Raises:
        UserError: as `load_rows`; or a row is of another kind, or the rows are a stream, which cannot be counted.
    """

    def check(row: Any, *, notes: RowNotes) -> Row:
        found = check_row(row, renderer, train_on_what, notes=notes)
        if "messages" not in found:
            raise invalid("row", sorted(map(str, row)), 'a conversation, "messages"; sl_basic takes other rows, too')
        return found

    rows = _load(data, seed, check, skip_bad_rows)
    if isinstance(rows, RowStream):
        raise invalid("data", data, "rows that can be counted; sl_basic takes streams, too")
    return as_rows(rows)


def _load(data: str | None, seed: int, check: RowCheck, skip: bool) -> Sequence[Row] | RowStream:
    if data is None:
        return _open(_PIG_LATIN, seed, check, skip)
    # A file may have a comma in its name.
    if "," not in data or Path(data).exists():
        return _open(data, seed, check, skip)
    return Mixture([_open_part(part.strip(), seed, check, skip) for part in data.split(",")])


def _open_part(part: str, seed: int, check: RowCheck, skip: bool) -> tuple[Sequence[Row], float]:
    # From the right: the name itself may have a colon.
    name, colon, number = part.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not (colon and 0 < weight < float("inf")):
        raise invalid("data", part, "a source and its weight in the mixture, a.jsonl:0.7,b.parquet:0.3")
    rows = _open(name, seed, check, skip)
    if isinstance(rows, RowStream):
        raise invalid("data", part, "a source of known length: a stream cannot be mixed")
    return rows, weight


def _open(source: str, seed: int, check: RowCheck, skip: bool) -> Sequence[Row] | RowStream:
    if source == _PIG_LATIN:
        return pig_latin.rows(pig_latin.draw_words("train", _OFFLINE_WORDS, seed))
    stream = source.startswith(_STREAM)
    name = source.removeprefix(_STREAM)
    repository = NAMED.get(name, name)
    if names_a_file(source):
        return open_file(Path(source), check, skip=skip)
    if repository.count("/") != 1:
        near = get_close_matches(name, [_PIG_LATIN, *NAMED], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        names = ", ".join([_PIG_LATIN, *NAMED])
        raise invalid("data", source, f"a file ({', '.join(_FILES)}), {names}, or owner/name of the hub{hint}")
    try:
        return open_hub(repository, check, stream=stream, seed=seed)
    except NotReachedError as error:
        warn_once(
            f"hub {repository}",
            f"data: {repository} cannot be had: the hub {error}; pig latin is used in its place. "
            "Give a file of the same rows to train on them offline",
        )
        return _open(_PIG_LATIN, seed, check, skip)


def names_a_file(source: str) -> bool:
    """Return whether a `data=` setting is a path, be it one that is misspelt, and not a name."""
    path = Path(source)
    # Also where no such file is: a misspelt path has to end as one, not as a question to the hub.
    return path.suffix.lower() in _FILES or path.is_file() or ("/" in source and path.parent.is_dir())


def open_file(
    path: Path, check: RowCheck, columns: ColumnCheck = check_columns, *, field: str = "data", skip: bool | None = None
) -> Rows:
    """Return the rows of a file, whose suffix says of which kind it is.

    Args:
        path: where it lies.
        check: what every row has to pass.
        columns: refuses a table without the columns that such rows need.
        field: the setting that names the file.
        skip: whether rows that fail are left out, or an error; None where whoever reads cannot choose.

    Raises:
        UserError: there is no such file, it is of no known kind, or rows do not pass.
    """
    kind = path.suffix.lower()
    if kind not in _FILES:
        # A packed file is one whose name says so, too.
        if path.is_file():
            check_is_text(path, field)
        raise invalid(field, str(path), f"a file whose name says what it is: {', '.join(_FILES)}")
    if kind in _TABLES:
        return _TABLES[kind](path, check, columns, skip=skip)
    return JsonlRows(path, check, field, skip=skip)
