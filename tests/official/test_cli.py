"""The official command line, `tinker`, against a live server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tinker
from click.testing import CliRunner
from tinker.cli.__main__ import main_cli

from tests.official.conftest import NewModel
from tests.support.live_server import LLAMA, LiveServer

Cli = Callable[..., Any]


@pytest.fixture
def cli(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run `tinker -f json ...` and return what it printed, parsed."""
    monkeypatch.setenv("TINKER_BASE_URL", live_server.url)
    monkeypatch.setenv("TINKER_API_KEY", live_server.key)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(main_cli, ["-f", "json", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


@pytest.mark.row(201)
def test_models_runs_and_checkpoints(cli: Cli, new_model: NewModel, rest: tinker.RestClient) -> None:
    model = new_model()
    path = model.save_state("cli").result(timeout=60).path
    assert LLAMA in json.dumps(cli("model", "list"))
    assert model.model_id in json.dumps(cli("run", "list", "--limit", "0"))
    assert model.model_id in json.dumps(cli("run", "info", model.model_id))
    assert path in json.dumps(cli("checkpoint", "list", "--run-id", model.model_id))
    assert path in json.dumps(cli("checkpoint", "info", path))
    cli("checkpoint", "publish", path)
    cli("checkpoint", "set-ttl", path, "--ttl", "7200")
    (saved,) = rest.list_checkpoints(model.model_id).result(timeout=60).checkpoints
    assert saved.public
    assert saved.expires_at is not None
    cli("checkpoint", "unpublish", path)
    cli("checkpoint", "delete", path, "-y")
    assert rest.list_checkpoints(model.model_id).result(timeout=60).checkpoints == []
