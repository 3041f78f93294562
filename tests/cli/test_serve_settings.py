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

SHELL = "environment"
OPTION = "command line"


@pytest.fixture(autouse=True)
def process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave alone what the command does to its whole process."""
    monkeypatch.setattr(serve.logs, "configure", lambda _: None)
    monkeypatch.setattr(connections, "raise_descriptors", lambda: None)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)


def refusal(monkeypatch: pytest.MonkeyPatch, how: str, name: str, value: str) -> str:
    """Start a service that must refuse to; return the line that says why."""
    typed = ["serve"]
    if how == OPTION:
        typed += [f"--{name}", value]
    else:
        monkeypatch.setenv(called(how, name), value)
    result = CliRunner(env={"COLUMNS": "500", "NO_COLOR": "1"}).invoke(app, typed)
    assert result.exit_code == 1, result.output
    return result.output.strip().splitlines()[-1]


def called(how: str, name: str) -> str:
    if how == OPTION:
        return f"--{name}"
    return "TINSMITH_HOME" if name == "data-dir" else f"TINSMITH_{name.upper()}"


@pytest.mark.parametrize("how", [SHELL, OPTION])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("host", "no.such.host.invalid"),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("data-dir", __file__),
    ],
)
def test_an_option_or_a_variable(how: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, how, name, value).startswith(f"error: {called(how, name)}: got ")


@pytest.mark.parametrize("how", [SHELL, OPTION])
def test_a_port_that_is_taken(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refusal(monkeypatch, how, "port", str(port)).startswith(f"error: {called(how, 'port')}: got {port} on ")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TINSMITH_BATCH_INVARIANT", "maybe", "got 'maybe', expected a valid boolean"),
        ("TINSMITH_DURABILITY", "some", "got 'some', expected 'normal' or 'full'"),
        ("TINSMITH_MODELS", "tiny", "got 'tiny', expected NAME=FOLDER_OR_HUB_ID,..."),
        ("TINSMITH_MAX_DATUMS", "0", "got '0', expected greater than or equal to 1"),
        ("TINSMITH_DATABASE_URL", "tinsmith.db", "got 'tinsmith.db', expected a SQLAlchemy URL"),
        ("TINSMITH_DATABASE_URL", "nodb://ann:secret@host/x", "got 'nodb://***@host/x', expected a SQLAlchemy URL"),
        (
            "TINSMITH_BLOB_URL",
            "nofs://key:secret@bucket",
            "got 'nofs://***@bucket', expected a URL that fsspec can open",
        ),
    ],
)
def test_a_variable(variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TINSMITH_PORT", "0")
    said = refusal(monkeypatch, SHELL, variable.removeprefix("TINSMITH_").lower(), value)
    assert said.startswith(f"error: {variable}: {expected}")
    assert "secret" not in said
