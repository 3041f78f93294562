"""kill -9 of a script with the service in its process: run again, it goes on from the last acknowledged step."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.client.killed_script import STEPS, data, train
from tests.support.checkpoints import checkpoint
from tinsmith import ServiceClient, TrainingClient
from tinsmith.client.transport.loop import background
from tinsmith.types.responses import Checkpoint

pytestmark = pytest.mark.row(11, 210)

LLAMA = str(checkpoint("llama"))


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give the service of this process another data folder; the next client starts it there."""
    from tinsmith import embedded

    def move(name: str) -> Path:
        background().submit(embedded.stop()).result(60)
        monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / name))
        return tmp_path / name

    yield move
    background().submit(embedded.stop()).result(60)


def _state(client: TrainingClient, home: Path) -> dict[str, bytes]:
    """Return the bytes of a run's tensors: its weights, and the moments of its optimizer."""
    path = client.save_state("end").result().path
    folder = home / "checkpoints" / path.split("/")[2] / "weights" / "end"
    found: dict[str, bytes] = {}
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        found |= {f"{name}: {key}": tensor.tobytes() for key, tensor in load_file(folder / name).items()}
    return found


def _recovered() -> list[Checkpoint]:
    """Return what was recovered, the newest first."""
    found = ServiceClient().create_rest_client().list_user_checkpoints().result().checkpoints
    return [one for one in found if (one.user_metadata or {}).get("recovered")]


def test_a_script_that_is_killed_and_run_again_ends_as_one_that_was_not(
    at_home: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    home = at_home("killed")
    killed = subprocess.run([sys.executable, "-m", "tests.client.killed_script", "4", LLAMA], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with caplog.at_level(logging.WARNING, "tinsmith.starting"):
        client, first = train()
    assert first == 4
    assert "create_training_client_from_state_with_optimizer(path) goes on from it" in caplog.text
    ended = _state(client, home)
    [recovered] = _recovered()
    assert recovered.tinker_path.endswith("/weights/recovered")
    # The run on another model follows once that is loaded.
    ServiceClient().create_lora_training_client(LLAMA, rank=2).forward(data(0), "cross_entropy").result()
    [other, recovered] = _recovered()
    assert other.base_model == LLAMA
    assert other.user_metadata == {"script": "another", "recovered": "true", "optimizer_steps": "1"}
    home = at_home("calm")
    calm, first = train()
    assert (first, STEPS) == (0, 6)
    # Weights and moments, bit for bit.
    assert ended == _state(calm, home)
