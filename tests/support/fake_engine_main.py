"""The engine process with fake engines: the source of a model says what happens when it is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from tests.support.fake_engine import FakeEngine
from tinsmith.cluster.engine_main import main
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError


def load(models: Iterable[ModelSpec], settings: Settings) -> Mapping[str, HostedEngine]:
    """Make fake engines, or fail as told."""
    engines: dict[str, HostedEngine] = {}
    for model in models:
        match model.source:
            case "broken":
                raise StartupError(f"model {model.name}: got nothing, expected a model")
            case "dies":
                os.abort()
            case "slow":
                time.sleep(60)
            case _:
                engines[model.name] = FakeEngine(model.name, max_tokens_per_pass=settings.max_tokens_per_pass)
    return engines


if __name__ == "__main__":
    main(load)
