"""What `tinsmith serve` refuses before it starts anything is named as whoever started it knows it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinsmith.cli import serve
from tinsmith.cli.main import app
from tinsmith.server.http import connections


@pytest.fixture(autouse=True)
def process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave alone what the command does to its whole process."""
    monkeypatch.setattr(serve.logs, "configure", lambda _: None)
    monkeypatch.setattr(connections, "raise_descriptors", lambda: None)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)


def refusal(*typed: str) -> str:
    """Start a service that must refuse to; return the line that says why."""
    result = CliRunner(env={"COLUMNS": "500", "NO_COLOR": "1"}).invoke(app, ["serve", *typed])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    [line] = [line for line in result.output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("option", "variable", "value", "said"),
    [
        ("--port", "TINSMITH_PORT", "70000", "expected less than or equal to 65535"),
        ("--host", "TINSMITH_HOST", "nowhere.invalid", "where nobody can listen"),
        ("--device", "TINSMITH_DEVICE", "cuda:x", "expected auto, cpu, cuda or cuda:N"),
        ("--dtype", "TINSMITH_DTYPE", "fp32", "expected auto, float32, bfloat16, float16 or float64"),
        ("--data-dir", "TINSMITH_HOME", __file__, "which is no folder, expected a data folder"),
    ],
)
def test_what_is_both_an_option_and_a_variable(
    option: str, variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "data"))
    line = refusal(option, value)
    assert line.startswith(f"error: {option}: got {value if value.isdigit() else repr(value)}")
    assert said in line
    monkeypatch.setenv(variable, value)
    line = refusal()
    assert line.startswith(f"error: {variable}: got {value!r}")
    assert said in line
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "data"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = f"got {port} on 127.0.0.1, which cannot be had"
        assert refusal("--port", port).startswith(f"error: --port: {said}")
        monkeypatch.setenv("TINSMITH_PORT", port)
        assert refusal().startswith(f"error: TINSMITH_PORT: {said}")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TINSMITH_BATCH_INVARIANT", "maybe", "got 'maybe', expected a valid boolean"),
        ("TINSMITH_DURABILITY", "some", "got 'some', expected 'normal' or 'full'"),
        ("TINSMITH_LONG_POLL_S", "-1", "got '-1', expected greater than 0"),
        ("TINSMITH_MODELS", "tiny", "got 'tiny', expected NAME=FOLDER_OR_HUB_ID,..."),
        ("TINSMITH_API_KEY", "sk-not-ours-at-all", "got a key that begins with 'sk-n'"),
    ],
)
def test_a_variable(variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal("--data-dir", str(tmp_path / "data")).startswith(f"error: {variable}: {said}")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TINSMITH_DATABASE_URL", "tinsmith.db", "got 'tinsmith.db', expected a SQLAlchemy URL"),
        ("TINSMITH_DATABASE_URL", "nodb://ann:secret@host/x", "got 'nodb://***@host/x', expected a SQLAlchemy URL"),
        ("TINSMITH_DATABASE_URL", "sqlite://host:port/x", "got 'sqlite://host:port/x', expected a SQLAlchemy URL"),
        (
            "TINSMITH_BLOB_URL",
            "nofs://key:secret@bucket",
            "got 'nofs://***@bucket', expected a URL that fsspec",
        ),
    ],
)
def test_a_url_that_cannot_be_opened_is_shown_without_its_password(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    line = refusal("--data-dir", str(tmp_path / "data"), "--port", "0")
    assert line.startswith(f"error: {variable}: {said}")
    assert "secret" not in line


def test_what_the_engine_refuses() -> None:
    assert serve._as_set("TINSMITH_DEVICE: got 'cuda:99'", {"device"}) == "--device: got 'cuda:99'"
    assert serve._as_set("TINSMITH_DEVICE: got 'cuda:99'", {}) == "TINSMITH_DEVICE: got 'cuda:99'"
    assert serve._as_set("model tiny: got 'x'", {"device"}) == "model tiny: got 'x'"


def test_what_is_no_model_and_a_folder_in_none(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = refusal("--data-dir", str(data), "--port", "0", "--model", "x=/nowhere at all")
    assert said.startswith("error: model x: got '/nowhere at all', which is no folder")
    assert not data.exists()
    mistyped = tmp_path / "vra" / "lib" / "data"
    said = refusal("--data-dir", str(mistyped))
    assert said.startswith(
        f"error: --data-dir: got '{mistyped}', expected a data folder, or a new one in a folder that"
    )
    assert not (tmp_path / "vra").exists()
