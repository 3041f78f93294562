"""The engine process with fake engines: the source of a model says what happens when it is loaded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.support.fakes.fake_engine import FakeEngine
from tinsmith.cluster.engine_main import main
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError

HANG = 500_000  # the pass never ends
SLOW = 600_000  # the pass takes longer than a beat may be late
FAULT = 700_000  # the process gets signal 11, as bad native code does
EXIT = 800_000  # the process ends without a word


class _SufferingEngine(FakeEngine):
    """An engine some of whose passes and samples take real time or end the process, as the first token says."""

    def suffer(self, firsts: Sequence[int]) -> None:
        for first in firsts:
            if first == HANG:
                time.sleep(600)
            elif first == SLOW:
                time.sleep(4)
            elif first == FAULT:
                os.kill(os.getpid(), signal.SIGSEGV)
            elif first == EXIT:
                os._exit(1)


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
                engines[model.name] = _SufferingEngine(model.name, max_tokens_per_pass=settings.max_tokens_per_pass)
    return engines


if __name__ == "__main__":
    main(load)
