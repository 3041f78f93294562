"""Rows that cannot be used: counted, the first few named, and left out where that is asked for."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinsmith.cookbook.supervised import JsonlRows, load_rows
from tinsmith.types.errors import UserError

GOOD = {"prompt": "2+2?", "completion": "4"}
BAD = {"prompt": "2+2?", "completion": " "}


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> str:
    path = folder / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text("prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=2))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.row(8)
@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("jsonl", ("line 2", "line 3", "line 5")),
        ("json", ("line 6", "line 10", "line 18")),
        ("csv", ("line 3", "line 4", "line 6")),
        ("parquet", ("row 1", "row 2", "row 4")),
    ],
)
def test_bad_rows_are_counted_and_the_first_are_named_or_they_are_left_out(
    kind: str, places: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, [GOOD, BAD, BAD, GOOD, BAD, BAD, BAD], kind)
    with pytest.raises(UserError) as error:
        load_rows(path)
    reason = "completion: got ' ', expected a text that is not empty"
    listed = [f"  {place}: {reason}" for place in places]
    told = [f"{path}: 5 of 7 rows cannot be used:", *listed, "  and 2 more", "skip_bad_rows=true leaves them out"]
    assert str(error.value).splitlines() == told
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        found = load_rows(path, skip_bad_rows=True)
    assert list(found) == [GOOD, GOOD]  # type: ignore[arg-type]
    assert found.remarks() == {"bad rows left out": "5 of 7"}  # type: ignore[union-attr]
    assert caplog.messages == [f"data: 5 of 7 rows of {path} are left out; {places[0]}: {reason}"]


def test_one_bad_row_is_named_and_where_nothing_else_is_left_there_is_no_way_around_it(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD, BAD], "jsonl")
    with pytest.raises(
        UserError, match=r"data\.jsonl, line 2: completion.* \(skip_bad_rows=true leaves the row out\)$"
    ):
        load_rows(path)
    # Whoever reads without that setting is not told of it.
    with pytest.raises(UserError, match=r"not empty$"):
        JsonlRows(path)
    for rows in ([BAD], [BAD, BAD]):
        path = write(tmp_path, rows, "jsonl")
        with pytest.raises(UserError, match=r"that is not empty$"):
            load_rows(path)
        with pytest.raises(UserError, match=r"data\.jsonl: no row can be trained on; the first, line 1: completion"):
            load_rows(path, skip_bad_rows=True)


lines = st.sampled_from([json.dumps(GOOD), json.dumps(BAD), "{", "[1]", '"x"', '{"text": "a"}', ""])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=st.lists(lines, max_size=8))
def test_what_is_left_out_and_what_is_kept_are_all_lines(tmp_path: Path, rest: list[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), *rest]))
    good = [json.loads(line) for line in rest if line in (json.dumps(GOOD), '{"text": "a"}')]
    found = load_rows(str(path), skip_bad_rows=True)
    assert list(found) == [GOOD, *good]  # type: ignore[arg-type]
    bad = sum(bool(line) for line in rest) - len(good)
    told = {"bad rows left out": f"{bad} of {bad + len(good) + 1}"} if bad else {}
    assert found.remarks() == told  # type: ignore[union-attr]


# -- JSON that is no JSONL ---------------------------------------------------------------------------------------------

rows = st.lists(
    st.one_of(st.just(GOOD), st.builds(lambda text: {"text": text + "."}, st.text('aé\u2028"[],{}\\\n ', max_size=6))),
    min_size=1,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, indent=st.sampled_from([None, 1, 4]), mark=st.booleans(), listed=st.booleans(), ascii_=st.booleans())
def test_json_is_read_however_it_is_laid_out(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, mark: bool, listed: bool, ascii_: bool
) -> None:
    path = tmp_path / "data.json"
    if listed:
        text = json.dumps(rows, indent=indent, ensure_ascii=ascii_)
    else:
        text = "\n".join(json.dumps(row, indent=indent, ensure_ascii=ascii_) for row in rows)
    path.write_text(text, encoding="utf-8-sig" if mark else "utf-8")
    found = load_rows(str(path))
    assert list(found) == rows  # type: ignore[arg-type]
    assert found[-1] == rows[-1]  # type: ignore[index]
    assert found.place(0) == f"{path}, line {2 if listed and indent else 1}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[\n {"text": "a"},\n]', ", line 3: not JSON ("),
        ('[\n {"text": "a"}\n {"text": "b"}]', ", line 3: not JSON (Expecting ',' or ']' behind an item"),
        ('[\n {"text": "a"}', ", line 2: not JSON (Expecting ',' or ']'"),
        ('{\n "text": "a"', ", line 2: not JSON ("),
        ('{"text": "a"\n{"text": "b"}', ", line 1: not JSON ("),
        ("[]", "expected a JSONL file with at least one row"),
        (
            '{"data": [{"text": "a"}], "version": 1}',
            ": one JSON object, whose 'data' holds a list; give the list alone",
        ),
        ('[{"text": "a"}, 3]', ", line 1: row: got 3, expected an object with either"),
        ("", "expected a JSONL file with at least one row"),
        ("[[[" * 100_000, "not "),
    ],
)
def test_json_that_gives_no_rows_is_told_in_words(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_rows(str(path))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n', mtime=0),
            "an unpacked file; this one is packed with gzip (gunzip",
        ),
        (
            "a.jsonl",
            gzip.compress(b'{"text": "a"}\n', mtime=0),
            "an unpacked file; this one is packed with gzip (gunzip",
        ),
        ("a.csv", b"PK\x03\x04rest", "this one is a zip archive or a spreadsheet (unzip it, or save it as CSV)"),
        ("a.json", '{"text": "a"}'.encode("utf-16"), "UTF-8; this is UTF-16 (iconv -f UTF-16 -t UTF-8 changes it)"),
        ("a.jsonl", b"PAR1....", "text; this is a Parquet file (call it .parquet)"),
    ],
)
def test_packed_files_and_those_of_another_kind_are_called_what_they_are(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_rows(str(tmp_path / name))
    assert str(error.value).startswith(f"data: got '{tmp_path / name}', expected ")
    assert expected in str(error.value)
