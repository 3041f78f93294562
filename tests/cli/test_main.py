"""The root of the command line: help, lazy imports, errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinsmith.cli.main import COMMANDS, app
from tinsmith.installing import install_command

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_help_lists_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output


@pytest.mark.row(214)
@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        (["demo"], ["--eval", "--seed", "--steps", "--base-url", "pig latin"]),
        (["chat"], ["--temperature", "--max-tokens", "--system", "--base-url", "Ctrl-D"]),
        (["checkpoint", "list"], ["--json", "--base-url", "--data-dir", "newest first"]),
        (["checkpoint", "export"], ["tinker://", "--base-url", "PEFT", "--merged", "--base", "--dtype", "vLLM"]),
        (["checkpoint", "import"], ["--base-model", "--name", "--base-url", "TRL", "refused by name"]),
        (["checkpoint", "delete"], ["--yes", "asks"]),
        (["checkpoint", "set-ttl"], ["--ttl", "never"]),
        (["run", "list"], ["--json", "--base-url"]),
        (["serve"], ["--host", "--port", "--data-dir", "--model", "--device", "--dtype"]),
    ],
)
def test_each_command_explains_itself(command: list[str], mentions: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    for mention in mentions:
        assert mention in result.output


def test_help_loads_neither_torch_nor_the_cookbook() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tinsmith.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([m for m in ('torch', 'transformers', 'fastapi', 'tinsmith.cookbook') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version() -> None:
    import tinsmith

    assert runner.invoke(app, ["--version"]).output.strip() == f"tinsmith {tinsmith.__version__}"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["dmo"], "No such command 'dmo'. Did you mean 'demo'?"),
        (["checkpoints", "list"], "No such command 'checkpoints'. Did you mean 'checkpoint'?"),
        (["checkpoint", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["key", "mak"], "No such command 'mak'."),
        (["chat_sl"], "No such command 'chat_sl'. Did you mean 'train chat_sl'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
    ],
)
def test_an_unknown_command_is_named_with_the_nearest_that_there_is(typed: list[str], said: str) -> None:
    result = runner.invoke(app, typed)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero\nmore"), PermissionError(13, "no", "x")])
def test_an_error_is_one_line_and_its_frames_are_there_for_those_who_ask(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinsmith.cli.catalogue import checkpoints

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "open_catalogue", fail)
    result = runner.invoke(app, ["checkpoint", "list"])
    assert result.exit_code == 1
    first = str(error).splitlines()[0]
    assert result.output == f"error: {type(error).__name__}: {first}; --debug shows where it comes from\n"
    for command in (["--debug", "checkpoint", "list"], ["checkpoint", "list", "--debug"]):
        assert runner.invoke(app, command).exception is error


def test_bad_words_end_in_one_line(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("fine\nnot a word\n")
    result = runner.invoke(app, ["demo", "--eval", str(words), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"error: {words}, line 2: got 'not a word', expected one word of 1 to 14 letters a to z"
    ]


@pytest.mark.row(18)
def test_a_missing_extra_is_named_before_anything_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tinsmith.cookbook.demo", "tinsmith.cookbook.plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = runner.invoke(app, ["demo", "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert f"which is not installed: {install_command('cookbook')}" in result.output
    assert not (tmp_path / "run").exists()
