"""The engine process with fake engines: the source of a model says what happens when it is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.support.fake_engine import FakeEngine
from tinsmith.cluster.engine_main import main
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError

HANG = 500_000  # the pass never ends
SLOW = 600_000  # the pass takes longer than a beat may be late


class _HangingEngine(FakeEngine):
    """An engine some of whose passes take real time, as the first token says."""

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        for row in rows:
            match row.datum.model_input.to_ints()[0]:
                case code if code == HANG:
                    time.sleep(600)
                case code if code == SLOW:
                    time.sleep(4)
        return super().train_rows(rows)


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
                engines[model.name] = _HangingEngine(model.name, max_tokens_per_pass=settings.max_tokens_per_pass)
    return engines


if __name__ == "__main__":
    main(load)
