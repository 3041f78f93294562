"""Which samplers may leave the engine's memory: their files stay, and the next request loads them again."""

from __future__ import annotations

import time
from collections import defaultdict

from tinsmith.server.state.live import SamplingSession
from tinsmith.server.store.core import Core


def to_rest(core: Core) -> list[SamplingSession]:
    """Return the samplers that were idle too long, and those beyond the number that may stay.

    Those that were used least recently go first; none goes that a request waits for.
    """
    resident: dict[str, list[SamplingSession]] = defaultdict(list)
    for sampler in core.live.samplers.values():
        # One that is not on disk yet could not be loaded again.
        if sampler.ready and sampler.on_disk:
            resident[sampler.base_model].append(sampler)
    if not resident:
        return []
    busy = {record.sampler_id for record in core.futures.pending(lambda r: r.sampler_id is not None)}
    over = time.monotonic() - core.settings.sampler_rest_s
    leaving: list[SamplingSession] = []
    for samplers in resident.values():
        too_many = len(samplers) - core.settings.max_resident_samplers
        for sampler in sorted(samplers, key=lambda s: s.used_at):
            if sampler.id not in busy and (too_many > 0 or sampler.used_at < over):
                leaving.append(sampler)
                too_many -= 1
    return leaving


def is_crowded(core: Core, base_model: str) -> bool:
    """Whether a base model has more samplers in the engine's memory than may stay."""
    resident = sum(s.ready and s.base_model == base_model for s in core.live.samplers.values())
    return resident > core.settings.max_resident_samplers
