"""What `/metrics` shows."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters and gauges of one service; several services of a process don't mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tinsmith_http_requests", "HTTP requests answered.", ["path", "status"], registry=self.registry
        )
        self.connections = Gauge("tinsmith_http_connections", "Open connections.", registry=self.registry)
        self.dropped = Counter(
            "tinsmith_http_connections_dropped", "Connections closed early.", ["reason"], registry=self.registry
        )
        self.seconds = Histogram(
            "tinsmith_http_seconds",
            "Time to answer, long polls left out.",
            registry=self.registry,
            # From a heartbeat to a large pass that is parsed and journalled.
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
        )
        self.operations = Counter(
            "tinsmith_operations", "Operations settled.", ["kind", "outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "tinsmith_operation_seconds",
            "From the acceptance of an operation to its outcome.",
            ["kind"],
            registry=self.registry,
            # From one decoded token to a save of a large model, or a place in a long queue.
            buckets=(0.01, 0.05, 0.2, 1, 5, 20, 60, 300),
        )
        self.refused = Counter(
            "tinsmith_refused",
            "Requests refused because a key had reached a limit, by the setting that bounds it.",
            ["limit"],
            registry=self.registry,
        )
        self.pending = Gauge("tinsmith_pending_operations", "Operations without an outcome.", registry=self.registry)
        self.sessions = Gauge("tinsmith_live_sessions", "Sessions that have not ended.", registry=self.registry)
        self.models = Gauge("tinsmith_live_models", "Training runs that have not ended.", registry=self.registry)
        self.samplers = Gauge(
            "tinsmith_live_samplers", "Sampling sessions that have not ended.", registry=self.registry
        )
        self.lives = Gauge("tinsmith_engine_lives", "How often an engine host came up.", registry=self.registry)
        self.losses = Counter(
            "tinsmith_engine_losses",
            "Engine hosts lost: crashed, killed or stopped from outside, out of memory, stalled.",
            ["cause"],
            registry=self.registry,
        )
        self.given_up = Counter(
            "tinsmith_operations_given_up",
            "Operations not tried again because engines were lost while they ran them.",
            ["kind"],
            registry=self.registry,
        )
        self.up = Gauge("tinsmith_engine_up", "Whether every model is loaded.", registry=self.registry)
        self.free = Gauge("tinsmith_disk_free_bytes", "Free space where the data folder is.", registry=self.registry)
        self.stored = Gauge("tinsmith_stored_bytes", "What lies in the data folder.", ["kind"], registry=self.registry)
        self._engine: dict[str, Gauge] = {}

    def engine(self, values: dict[str, float]) -> None:
        """Show the gauges that the engine host reports."""
        for key, value in values.items():
            if key not in self._engine:
                name = "tinsmith_engine_" + re.sub(r"\W+", "_", key).strip("_").lower()
                self._engine[key] = Gauge(name, f"Reported by the engine host: {key}.", registry=self.registry)
            self._engine[key].set(value)

    def page(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self.registry)
