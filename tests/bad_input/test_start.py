"""A server that cannot start says in one line what is wrong, and ends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.spawn import clean_environment, free_port, tinsmith_command
from tests.support.live_server import LLAMA, LiveServer, model_folder


def refusal(data_dir: Path, **models: Path) -> str:
    """Start a server that must refuse to; return what it printed."""
    names = {name: str(folder) for name, folder in models.items()}
    command = tinsmith_command(free_port(), data_dir, names, "--device", "cpu")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=clean_environment(), check=False)
    assert done.returncode not in (0, None), done.stdout
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    return " ".join(printed.split())


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    printed = refusal(tmp_path / "data", mine=tmp_path / "empty")
    assert "mine" in printed
    assert str(tmp_path / "empty") in printed.replace(" ", "")
    assert "config.json" in printed


@pytest.mark.slow
def test_an_architecture_that_is_not_supported(tmp_path: Path) -> None:
    folder = tmp_path / "mamba"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}))
    printed = refusal(tmp_path / "data", mine=folder)
    assert "mamba" in printed.lower()
    assert "expected" in printed


@pytest.mark.row(213)
def test_a_data_folder_that_another_process_holds(live_server: LiveServer) -> None:
    printed = refusal(live_server.data_dir, llama=model_folder(LLAMA))
    assert "data folder" in printed
    assert f"pid {live_server.pid}" in printed
