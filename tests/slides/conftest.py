"""The slides' model names stand for tiny random checkpoints of the same architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tinsmith import Datum, TrainingClient

LLAMA = "meta-llama/Llama-3.1-8B"
QWEN = "Qwen/Qwen3-8B"


@pytest.fixture(autouse=True)
def _lineup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_MODELS", f"{LLAMA}={checkpoint('llama')},{QWEN}={checkpoint('qwen3')}")


@pytest.fixture
def training() -> Iterator[TrainingClient]:
    with TrainingClient(model_name=LLAMA, lora_config={"rank": 4, "seed": 0}) as client:
        yield client


@pytest.fixture
def data() -> list[Datum]:
    return [
        Datum(tokens=[12, 56, 90], targets=[56, 90, 34], weights=[0.0, 0.0, 1.0]),
        Datum(tokens=[1, 2, 3, 4], targets=[2, 3, 4, 5], weights=[0.0, 1.0, 1.0, 0.5]),
    ]


@pytest.fixture
def names(training: TrainingClient, data: list[Datum]) -> dict[str, Any]:
    """What the slides have defined by then."""
    return {
        "training": training,
        "training_client": training,
        "data": data,
        "batch": data,
        "prompts": ["Hello", "Good"],
        "params": {"max_tokens": 3, "n": 2},
        "loss_fn": "cross_entropy",
    }
