"""Gauges of the host, sampled about once a second while it works and once more when it comes to rest."""

from __future__ import annotations

from collections.abc import Iterable

from tinsmith.scheduler.engine_scheduler import EngineScheduler
from tinsmith.types.engine_messages.host_events import Stats

# As often as a person who looks at the page can follow; a scrape reads the last values.
INTERVAL_S = 1.0


class Meter:
    """Turns counters into rates.

    Attributes:
        at_rest: whether no turn was taken since the stats of a host at rest.
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._busy_s = 0.0
        self._longest_s = 0.0
        self._train_tokens = 0
        self._sample_tokens = 0
        self.at_rest = True

    def worked(self, seconds: float) -> None:
        """Count the time of one turn."""
        self._busy_s += seconds
        self._longest_s = max(self._longest_s, seconds)
        self.at_rest = False

    def due(self, now: float) -> bool:
        """Whether a busy host should send stats: a second has passed."""
        return now >= self._since + INTERVAL_S

    def take(self, engines: Iterable[EngineScheduler], unanswered: int, now: float, busy: bool) -> Stats:
        """Return the gauges and begin a new interval.

        Rates are per second of wall clock since the last call; `busy` is the share of it that turns took, and
        `longest_turn_seconds` what everybody had to wait for at most. Figures of several engines are added up.
        """
        engines = list(engines)  # it is walked over several times
        train_tokens = sum(e.passes.tokens for e in engines)
        sample_tokens = sum(e.sample_queue.tokens for e in engines)
        elapsed = max(now - self._since, 1e-6)  # two turns can end within one tick of the clock
        values: dict[str, float] = {}
        for engine in engines:
            for name, value in engine.figures().items():
                values[name] = values.get(name, 0) + value
        values |= {
            "train_tokens": train_tokens,
            "sample_tokens": sample_tokens,
            "models": sum(q.alive for e in engines for q in e.queues.values()),
            "samplers": sum(len(e.known_samplers) for e in engines),
            "unanswered": unanswered,
            "queued_operations": sum(len(q) for e in engines for q in e.queues.values()),
            "queued_samples": sum(e.sample_queue.queued for e in engines),
            "running_samples": sum(e.sample_queue.running for e in engines),
            "train_tokens_per_second": (train_tokens - self._train_tokens) / elapsed,
            "sample_tokens_per_second": (sample_tokens - self._sample_tokens) / elapsed,
            "busy": min(1.0, self._busy_s / elapsed),
            "longest_turn_seconds": self._longest_s,
        }
        self._since, self._busy_s, self._longest_s, self.at_rest = now, 0.0, 0.0, not busy
        self._train_tokens, self._sample_tokens = train_tokens, sample_tokens
        running = [request_id for engine in engines for request_id in engine.sample_queue.running_ids]
        return Stats({name: float(value) for name, value in values.items()}, running)
