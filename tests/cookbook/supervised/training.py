"""Short runs of the supervised trainer, for its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.fake_service import FakeService
from tinsmith.client.transport import embedding
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.settings import Settings

ROWS = pig_latin.rows(pig_latin.draw_words("train", 40))


def config_for(folder: Path, **fields: Any) -> SupervisedConfig:
    settings: dict[str, Any] = {
        "batch_size": 8,
        "lora_rank": 8,
        "max_steps": 5,
        "eval_every": 0,
        "save_every": 0,
        "log_path": str(folder / "run"),
    }
    return SupervisedConfig(**(settings | fields))


def metrics_of(config: SupervisedConfig) -> list[dict[str, Any]]:
    assert config.log_path is not None
    return [json.loads(line) for line in (Path(config.log_path) / "metrics.jsonl").read_text().splitlines()]


def embed(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(settings: Settings) -> FakeService:
        return service

    monkeypatch.setattr(embedding, "_start", start)
