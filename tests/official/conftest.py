"""The official SDK against a live server: one session per worker, fresh adapters per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tinker

from tests.official.cookbook_desk import MODELS, lay_out, make_model
from tests.support.live_server import LLAMA, LiveServer

NewModel = Callable[..., tinker.TrainingClient]


@pytest.fixture(scope="session")
def service(live_server: LiveServer) -> Iterator[tinker.ServiceClient]:
    """A session of the official SDK."""
    with live_server.service() as client:
        yield client


@pytest.fixture(scope="session")
def rest(live_server: LiveServer) -> tinker.RestClient:
    """The official REST client."""
    return tinker.RestClient(base_url=live_server.url, api_key=live_server.key)


@pytest.fixture
def new_model(service: tinker.ServiceClient) -> NewModel:
    """Create adapters of rank 8 with seed 1 on the tiny Llama, unless asked for otherwise."""

    def create(base_model: str = LLAMA, **options: Any) -> tinker.TrainingClient:
        return service.create_lora_training_client(base_model, **{"rank": 8, "seed": 1} | options).result(timeout=60)

    return create


@pytest.fixture(scope="session")
def qwen_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the embedded model under the names that recipes of the official cookbook ask for."""
    folder = tmp_path_factory.mktemp("qwen")
    server = LiveServer(folder, models=dict.fromkeys(MODELS, make_model(folder / "model")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def qwen_desk(qwen_server: LiveServer, tmp_path: Path) -> Path:
    """A folder in which recipes find those models, and data sets, by their hub names."""
    return lay_out(tmp_path, Path(qwen_server.models[MODELS[0]]))
