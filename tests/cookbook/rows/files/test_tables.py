"""Parquet and CSV files: nested and JSON messages, columns, and how a bad row is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.cookbook.rows.files.csv_rows import CsvRows
from tinsmith.cookbook.rows.files.parquet_rows import ParquetRows
from tinsmith.cookbook.supervised import check_row, load_rows
from tinsmith.types.errors import UserError

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "default": None}}}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}]}
# As it is read: arguments are an object, whatever they came as.
CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": {"a": 1}}}]}


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def write_csv(path: Path, *lines: list[str]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return str(path)


@pytest.mark.row(8)
def test_nested_messages_of_parquet_are_those_of_the_jsonl(tmp_path: Path) -> None:
    rows = [{"messages": [QUESTION, ANSWER], "n": i, "source": "xy"[i % 2]} for i in range(600)]
    rows[7]["messages"] = [QUESTION, CALL, {"role": "tool", "content": "4"}, ANSWER]  # widens every struct of the file
    found = load_rows(write_parquet(tmp_path / "a.parquet", rows, row_group_size=130))
    assert isinstance(found, ParquetRows)
    rows[7]["messages"][1] = CALLED
    assert [found[i] for i in (0, 7, 299, -1)] == [rows[i] for i in (0, 7, 299, -1)]
    assert list(found) == rows
    assert found.place(299) == f"{tmp_path}/a.parquet, row 299"


def test_messages_and_tools_as_json_texts_keep_their_nulls(tmp_path: Path) -> None:
    row = {"messages": json.dumps([QUESTION, CALL]), "tools": json.dumps([TOOL])}
    (found,) = load_rows(write_parquet(tmp_path / "a.parquet", [row]))  # type: ignore[misc]
    assert found == {"messages": [QUESTION, CALLED], "tools": [TOOL]}
    (found,) = load_rows(write_csv(tmp_path / "a.csv", ["messages", "tools"], [*row.values()]))  # type: ignore[misc]
    assert found == {"messages": [QUESTION, CALLED], "tools": [TOOL]}


def test_prompts_and_texts_of_parquet(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2?", "completion": "4"}, {"text": "hi"}, {"prompt": "3?", "completion": "3", "text": None}]
    table = pa.Table.from_pylist([{"prompt": None, "completion": None, "text": None, **row} for row in rows])
    coded = table.set_column(0, "prompt", table["prompt"].dictionary_encode())
    pq.write_table(coded, tmp_path / "a.parquet", row_group_size=1)
    found = ParquetRows(tmp_path / "a.parquet")
    assert list(found) == [rows[0], rows[1], {"prompt": "3?", "completion": "3"}]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"question": "x", "answer": "y"}],
            ': columns: got \'question, answer\', expected either "messages", "text", or',
        ),
        ([{"text": "a"}, {"text": " "}], ", row 1: text: got ' ', expected a text that is not empty"),
        ([{"messages": [QUESTION]}], ", row 0: messages: got 'roles user'"),
        ([{"messages": "[{"}], ", row 0: messages: got '[{', expected JSON (unexpected end of data"),
        ([{"text": 3}], ", row 0: text: got 3, expected a text"),
    ],
)
def test_a_bad_row_of_parquet_is_named(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError) as error:
        load_rows(path)
    assert str(error.value).startswith(path + expected)


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(UserError, match=r"text.parquet', expected a Parquet file that can be read"):
        load_rows(str(tmp_path / "text.parquet"))
    with pytest.raises(UserError, match=r"none.parquet', expected a Parquet file that can be read"):
        load_rows(str(tmp_path / "none.parquet"))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="with at least one row"):
        load_rows(str(tmp_path / "empty.parquet"))


def test_rows_of_csv_lie_on_disk_whatever_lines_they_span(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        ["prompt", "completion", "note"],
        ["2+2?", "4", ""],
        ['says "a,b"\r\nand\nmore', "é\u2028日本", "x"],
        ["last?", "x" * 200_000, "y"],
    )
    found = load_rows(path)
    assert isinstance(found, CsvRows)
    assert list(found) == [
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": 'says "a,b"\r\nand\nmore', "completion": "é\u2028日本", "note": "x"},
        {"prompt": "last?", "completion": "x" * 200_000, "note": "y"},
    ]
    assert found[1]["note"] == "x"
    assert [found.place(i) for i in range(3)] == [f"{path}, line {n}" for n in (2, 3, 6)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("question,answer\nx,y\n", ": columns: got 'question, answer', expected either \"messages\""),
        ("", ": columns: got '', expected either"),
        ("text,id,text\nx,1,y\n", ": columns: got 'text, id, text', expected text once"),
        ("text\n", "data: got '{path}', expected a CSV file with at least one row under its header"),
        ("prompt,completion\nx,y\nx\n", ", line 3: row: got '1 fields', expected 2: prompt, completion"),
        ("prompt,completion\nx,\n", ", line 2: row: got ['prompt'], expected either"),
        ('text\nfine\n"open\n\n', ", line 3: not CSV (unexpected end of data)"),
        ('text\n"a"b\n', ", line 2: not CSV ("),
        ("text\nfine\n\ncaf\xe9\n", ", line 4: not UTF-8 (invalid continuation byte at byte 3)"),
        ("messages\n[1\n", ", line 2: messages: got '[1', expected JSON ("),
    ],
)
def test_a_bad_row_of_csv_is_named_with_its_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as error:
        load_rows(str(path))
    wanted = expected.replace("{path}", str(path))
    assert str(error.value).startswith(wanted if expected.startswith("data") else f"{path}{wanted}")


# Control characters at the edges of a field are stripped by nobody; a field of blanks alone is no text.
fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10).filter(
    str.strip
)


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=6), mark=st.booleans(), data=st.data())
def test_any_csv_is_read_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, str]], mark: bool, data: st.DataObject
) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("prompt", "completion"), *rows])
    expected = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    found = CsvRows(path)
    assert list(found) == expected
    index = data.draw(st.integers(0, len(rows) - 1))
    assert found[index] == expected[index]


def test_a_parquet_copy_has_no_name_that_a_killed_process_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    rows = ParquetRows(write_parquet(tmp_path / "a.parquet", [{"text": "hi"}]), check_row)
    assert not list((tmp_path / "temp").iterdir())
    assert list(rows) == [{"text": "hi"}]
    with pytest.raises(UserError, match="row 1: text: got"):
        ParquetRows(write_parquet(tmp_path / "b.parquet", [{"text": "hi"}, {"text": ""}]), check_row)
    assert not list((tmp_path / "temp").iterdir())
