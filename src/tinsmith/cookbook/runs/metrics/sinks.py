"""Where metrics go beside `metrics.jsonl`; a sink that fails later is left out with one warning, the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

logger = logging.getLogger("tinsmith.cookbook")


class Sink(Protocol):
    """Takes rows of metrics."""

    name: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Finish; `failed` says that the run ended with an error."""
        ...


class Sinks:
    """Several sinks as one that never raises."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)

    def add(self, sink: Sink) -> None:
        """Add one."""
        self._sinks.append(sink)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Give the metrics of a step to each."""
        self._each(lambda sink: sink.log(step, metrics))

    def close(self, *, failed: bool) -> None:
        """Finish each."""
        self._each(lambda sink: sink.close(failed=failed))
        self._sinks = []

    def _each(self, work: Callable[[Sink], None]) -> None:
        # A copy, since one that fails is taken out on the way.
        for sink in list(self._sinks):
            try:
                work(sink)
            except Exception as error:  # whatever a library of others raises must not cost the run
                logger.warning(
                    f"{sink.name}: {type(error).__name__}: {error}; it is left out from now on, metrics.jsonl has all"
                )
                self._sinks.remove(sink)
