"""Where rows come from: names, the hub and its absence, mixtures on the command line."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

import tinsmith.hub
from tests.cookbook.renderers.formats import byte_tokenizer
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.rows.mixture import Mixture
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.cookbook.rows.sources import load_conversations
from tinsmith.cookbook.supervised import RowStream, load_rows
from tinsmith.types.errors import UserError

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that answers, with the data sets that a test puts into it."""
    stored: dict[str, Any] = {}

    def load_dataset(name: str, subset: None, *, split: str, streaming: bool) -> Any:
        if name not in stored:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        if split != "train":
            raise ValueError(f'Unknown split "{split}"')
        found = datasets.Dataset.from_list(stored[name])
        return found.to_iterable_dataset() if streaming else found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("tinsmith.cookbook.rows.files.hub_rows.unreachable", lambda: None)
    return stored


@pytest.mark.row(58)
def test_where_only_conversations_will_do_other_rows_are_named_and_streams_are_refused(
    tmp_path: Path, hub: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    renderer = get_renderer("role_colon", byte_tokenizer("llama", "llama3"))

    def conversations(data: str | None) -> Rows:
        return load_conversations(data, 0, renderer, "all_assistant_messages")

    messages = {"messages": [QUESTION, ANSWER]}
    file = write(tmp_path / "a.jsonl", messages, {"prompt": "2+2?", "completion": "4"})
    with pytest.raises(
        UserError, match=r"a.jsonl, line 2: row: got \['completion', 'prompt'\], expected a conversation"
    ):
        conversations(file)
    # Nobody can mend a set of the hub: what does not fit is left out.
    hub["a/b"] = [{**messages, "text": None}, {"messages": None, "text": "once"}]
    assert list(conversations("a/b")) == [messages]
    assert "1 of 2 rows of a/b are left out; row 1: row: got ['text'], expected a conversation" in caplog.text
    with pytest.raises(UserError, match="data: got 'stream:a/b', expected rows that can be counted"):
        conversations("stream:a/b")
    assert conversations(None).facts() == {"rows": 12_800, "sha256": conversations("pig_latin").digest()}


@pytest.mark.row(58)
@pytest.mark.parametrize("name", ["HuggingFaceH4/no_robots", "no_robots", "stream:tulu3"])
def test_a_hub_data_set_that_cannot_be_had_gives_pig_latin_and_says_so_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tinsmith.hub, "_failed", None)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        rows = load_rows(name)
    assert time.monotonic() - started < 5
    assert not isinstance(rows, RowStream)
    assert rows[0]["messages"][0]["content"].startswith("translate: ")
    assert "cannot be had: the hub cannot be reached" in caplog.text
    assert "pig latin is used in its place. Give a file of the same rows" in caplog.text
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


@pytest.mark.row(58, 65)
def test_no_robots_is_known_by_its_name(hub: dict[str, Any]) -> None:
    good = {"prompt": "2+2?", "prompt_id": "x", "messages": [QUESTION, ANSWER], "category": "Closed QA"}
    hub["HuggingFaceH4/no_robots"] = [good] * 3
    rows = load_rows("no_robots")
    assert not isinstance(rows, RowStream)
    assert (len(rows), rows[0], rows[-1:]) == (3, good, [good])
    hub["allenai/tulu-3-sft-mixture"] = [{"id": "x", "messages": [QUESTION, ANSWER], "source": "y"}]
    assert list(load_rows("tulu3")) == hub["allenai/tulu-3-sft-mixture"]  # type: ignore[arg-type]


def test_rows_of_the_hub_that_cannot_be_trained_on_are_left_out_and_counted(
    hub: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    hub["some/one"] = [{"messages": [QUESTION]}, {"messages": [QUESTION, ANSWER]}, {"messages": [ANSWER, QUESTION]}]
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        rows = load_rows("some/one")
        assert list(rows) == hub["some/one"][1:]  # type: ignore[arg-type]
        stream = load_rows("stream:some/one")
        assert isinstance(stream, RowStream)
        assert {place for place, _ in stream.epoch(0)} == {"some/one, row 1", "some/one, row 2"}
    assert [r.message.split(";")[0] for r in caplog.records] == ["data: 1 of 3 rows of some/one are left out"]
    hub["some/other"] = hub["some/one"][:1]
    with pytest.raises(UserError, match="some/other: no row can be trained on; the first, row 0: messages: got 'roles"):
        load_rows("some/other")


def test_a_data_set_that_the_hub_does_not_have_is_refused(hub: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data: got 'some/body', expected a data set of the hub .Dataset 'some/body'"):
        load_rows("some/body")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("nowhere/data.jsonl", "got 'nowhere/data.jsonl', expected a JSONL file that can be read"),
        ("no_robot", r"data: got 'no_robot', expected a file .*\(did you mean 'no_robots'\?\)"),
        ("a.txt", "data: got 'a.txt', expected a file"),
        ("", "data: got '', expected a file"),
        ("{folder}/notes.txt", "expected a file whose name says what it is: .csv, .json, .jsonl, .ndjson, .parquet"),
        ("{folder}/missing.txt", "missing.txt', expected a file whose name says"),
        ("{folder}/a.jsonl,{folder}/a.jsonl:1", "a.jsonl', expected a source and its weight"),
        ("{folder}/a.jsonl:0.5,{folder}/a.jsonl:-1", "a.jsonl:-1', expected a source and its weight"),
        ("{folder}/a.jsonl:0.5,", "data: got '', expected a source and its weight"),
    ],
)
def test_what_is_no_source_is_refused_by_name(tmp_path: Path, data: str, expected: str) -> None:
    write(tmp_path / "a.jsonl", {"text": "hi"})
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=expected):
        load_rows(data.replace("{folder}", str(tmp_path)))


def test_sources_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"text": "hi"})
    assert list(load_rows(path)) == [{"text": "hi"}]  # type: ignore[arg-type]
    assert load_rows(None, seed=3) == load_rows("pig_latin", seed=3) != load_rows(None, seed=4)
    assert list(load_rows(write(tmp_path / "LOUD.JSONL", {"text": "hi"}))) == [{"text": "hi"}]  # type: ignore[arg-type]
    odd = write(tmp_path / "a,b:1.jsonl", {"text": "odd"})
    assert list(load_rows(odd)) == [{"text": "odd"}]  # type: ignore[arg-type]


def test_a_mixture_is_named_with_weights(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", *[{"text": f"a{i}"} for i in range(70)])
    second = write(tmp_path / "b.jsonl", *[{"text": f"b{i}"} for i in range(90)])
    rows = load_rows(f"{first}:0.7, {second}:0.3")
    assert isinstance(rows, Mixture)
    assert rows.shares == [70, 30]


def test_a_stream_cannot_be_mixed(tmp_path: Path, hub: dict[str, Any]) -> None:
    hub["some/one"] = [{"messages": [QUESTION, ANSWER]}]
    path = write(tmp_path / "a.jsonl", {"text": "hi"})
    with pytest.raises(UserError, match=r"stream:some/one:0.5', expected a source of known length"):
        load_rows(f"{path}:0.5,stream:some/one:0.5")
