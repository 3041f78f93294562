"""Which samplers may leave the engine's memory: their files stay, and the next request loads them again."""

from __future__ import annotations

import time
from collections import defaultdict

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.live import LiveState, SamplingSession
from tinsmith.settings import Settings


class Resting:
    """Sends idle samplers to rest, those that were used least recently first."""

    def __init__(self, settings: Settings, live: LiveState, futures: FutureStore, dispatcher: Dispatcher) -> None:
        self._idle_s = settings.sampler_rest_s
        self._most = settings.max_resident_samplers
        self._live = live
        self._futures = futures
        self._dispatcher = dispatcher
        dispatcher.on_sampler_ready = self.make_room

    def rest(self) -> None:
        """Release the samplers that were idle too long, and those beyond the number that may stay."""
        resident: dict[str, list[SamplingSession]] = defaultdict(list)
        for sampler in self._live.samplers.values():
            if sampler.ready and sampler.on_disk:
                resident[sampler.base_model].append(sampler)
        if not resident:
            return
        busy = {record.sampler_id for record in self._futures.pending(lambda r: r.sampler_id is not None)}
        over = time.time() - self._idle_s
        for samplers in resident.values():
            too_many = len(samplers) - self._most
            for sampler in sorted(samplers, key=lambda s: s.used_at):
                if sampler.id not in busy and (too_many > 0 or sampler.used_at < over):
                    self._dispatcher.release_sampler(sampler)
                    too_many -= 1

    def make_room(self, newcomer: SamplingSession) -> None:
        """Do so if a newcomer's base model has more samplers than may stay."""
        resident = sum(s.ready and s.base_model == newcomer.base_model for s in self._live.samplers.values())
        if resident > self._most:
            self.rest()
