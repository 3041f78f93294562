"""What is named on the command line, and models that do not load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tinsmith.cluster.loading import load_engines
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("Qwen/Qwen3-0.6B=/models/q", "Qwen/Qwen3-0.6B", "/models/q"),
        ("/models/q=/models/q", "/models/q", "/models/q"),
        ("m=/models/a=b", "m", "/models/a=b"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_names_and_sources(text: str, name: str, source: str) -> None:
    assert ModelSpec.parse(text) == ModelSpec(name, source)


@pytest.mark.parametrize("text", ["", "=", "name=", "=/models/q"])
def test_a_missing_half(text: str) -> None:
    with pytest.raises(StartupError, match="expected NAME=FOLDER_OR_HUB_ID"):
        ModelSpec.parse(text)


def test_an_engine_is_loaded_under_its_name() -> None:
    engines = load_engines([ModelSpec("org/tiny", str(checkpoint("qwen3")))], Settings(device="cpu"))
    assert engines["org/tiny"].info.name == "org/tiny"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=rf"model tiny: {tmp_path}/config\.json: got no such file"):
        load_engines([ModelSpec("tiny", str(tmp_path))], Settings(device="cpu"))


def test_a_torn_checkpoint(tmp_path: Path) -> None:
    source = checkpoint("qwen3")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    with pytest.raises(StartupError, match="model tiny"):
        load_engines([ModelSpec("tiny", str(tmp_path))], Settings(device="cpu"))


def test_one_name_twice() -> None:
    specs = [ModelSpec("tiny", str(checkpoint("qwen3")))] * 2
    with pytest.raises(StartupError, match="expected one source for each name"):
        load_engines(specs, Settings(device="cpu"))


def test_a_device_that_this_machine_has_not_is_named_by_its_setting() -> None:
    source = str(checkpoint("qwen3"))
    with pytest.raises(StartupError, match=r"^TINSMITH_DEVICE: got 'cuda:99', expected one of the \d+ CUDA devices"):
        load_engines([ModelSpec("tiny", source)], Settings(device="cuda:99"))
