"""`tinsmith serve` and `tinsmith key` as a user types them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tinsmith.cli.main import app


def run(*arguments: str, **env: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env=env)
    return result.exit_code, result.output


@contextmanager
def serving(data_dir: Path, **env: str) -> Iterator[list[str]]:
    """Run `tinsmith serve` until it has said where it listens; give what it printed, and stop it by SIGTERM."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TINSMITH_", "TINKER_"))}
    command = [sys.executable, "-m", "tinsmith.cli.main", "serve", "--port", "0", "--data-dir", str(data_dir)]
    with (data_dir.parent / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean | env)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("export TINSMITH_API_KEY"):
                line = process.stdout.readline()
                assert line, (data_dir.parent / "log").read_text()
                lines.append(line.rstrip("\n"))
            yield lines
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (data_dir.parent / "log").read_text()


def exported(lines: list[str]) -> dict[str, str]:
    return dict(re.findall(r"^export (\w+)=(\S+)", "\n".join(lines), re.M))


@pytest.mark.slow
@pytest.mark.row(20, 214)
def test_serve_shows_where_it_listens_and_a_new_key_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as lines:
        shown = exported(lines)
        assert lines[0] == f"Tinsmith listens on {shown['TINSMITH_BASE_URL']}"
        assert shown["TINSMITH_BASE_URL"].startswith("http://127.0.0.1:")
        headers = {"X-API-Key": shown["TINSMITH_API_KEY"]}
        url = shown["TINSMITH_BASE_URL"]
        models = httpx.get(f"{url}/api/v1/get_server_capabilities", headers=headers).json()["supported_models"]
        assert [model["model_name"] for model in models] == ["tinsmith-tiny"]
        assert httpx.get(f"{url}/healthz").status_code == 200
        status, output = run("key", "list", "--data-dir", str(tmp_path / "data"))
        assert status == 0
        assert shown["TINSMITH_API_KEY"] not in output
        assert f"tml-...{shown['TINSMITH_API_KEY'][-4:]}" in output
    log = (tmp_path / "log").read_text()
    assert shown["TINSMITH_API_KEY"] not in log
    style = re.compile(r'time=\S+Z level=[a-z]+ process=(api|engine) logger=\S+ message=".*"')
    found = [style.fullmatch(line) for line in log.splitlines()]
    assert all(found), log
    assert {match[1] for match in found if match} == {"api", "engine"}
    with serving(tmp_path / "data", TINSMITH_API_KEY="tml-none-of-its-keys") as again:
        assert shown["TINSMITH_API_KEY"] not in "\n".join(again)
        url = exported(again)["TINSMITH_BASE_URL"]
        assert httpx.get(f"{url}/api/v1/sessions", headers=headers).status_code == 200
        assert httpx.get(f"{url}/api/v1/sessions", headers={"X-API-Key": "tml-none-of-its-keys"}).status_code == 401


@pytest.mark.row(213)
def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    status, token = run("key", "create", "ann", "--name", "laptop", *place)
    assert status == 0
    assert re.fullmatch(r"tml-[\w-]{43}\n", token)
    status, output = run("key", "list", *place)
    assert re.search(rf"1 +tml-\.\.\.{re.escape(token[-5:-1])} +valid +just now +ann +1 +laptop", output)
    assert run("key", "revoke", "1", *place) == (0, "key 1 is revoked\n")
    assert "revoked" in run("key", "list", *place)[1]
    status, output = run("key", "revoke", "1", *place)
    assert status == 1
    assert "key: got 1, expected the id of a key that is not revoked" in output


def test_a_key_has_a_weight(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    assert run("key", "create", "ann", "--weight", "2.5", *place)[0] == 0
    assert "ann still weighs 2.5, which another key of this owner has" in run("key", "create", "ann", *place)[1]
    assert re.search(r"1 +tml-\S+ +valid +just now +ann +2\.5", run("key", "list", *place)[1])
    status, output = run("key", "create", "bob", "--weight", "0", *place)
    assert status == 1
    assert "weight: got '0', expected 0.01 to 100; 1 is what everybody has" in output
    assert "bob" not in run("key", "list", *place)[1]
