"""Why an operation has no outcome yet, in the protocol's own fields: `queue_state` and `queue_state_reason`."""

from __future__ import annotations

import time
from typing import NamedTuple

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.handlers.intake.limits import Limits
from tinsmith.server.state.records import Record
from tinsmith.server.store.core import Core
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.responses import QueueState

# An owner of whom nothing was done for so long, while something was for others, waits for them, seconds.
_STILL_S = 10.0


class Wait(NamedTuple):
    """How an operation waits.

    Attributes:
        state: `active` while it runs, or waits for its owner's own work; `paused_capacity` while it waits for the
            engine or for the work of others; `paused_rate_limit` while its owner is at a limit of its own.
        reason: in words, without a full stop, which clients add; None for `active`.
    """

    state: QueueState
    reason: str | None = None


_ACTIVE = Wait("active")


class Waiting:
    """Tells how operations wait."""

    def __init__(self, core: Core, dispatcher: Dispatcher, limits: Limits) -> None:
        self._dispatcher = dispatcher
        self._limits = limits
        self._live = core.live
        self._catalog = core.catalog
        self._futures = core.futures

    def of(self, record: Record) -> Wait:
        """Return how an operation waits that has no outcome yet."""
        if (reason := self._engine_away(record)) is not None:
            return Wait("paused_capacity", reason)
        if record.request_id in self._futures.running:
            return _ACTIVE
        if (why := self._limits.held_back(record.owner)) is not None:
            return Wait("paused_rate_limit", f"your key is at its limit: {why}")
        if self._waits_for_others(record):
            return Wait("paused_capacity", self._others(record.owner))
        return _ACTIVE

    def _engine_away(self, record: Record) -> str | None:
        """Say that the engine is not there, or has not got what the operation needs."""
        if not self._dispatcher.up:
            if self._catalog.lost is None:
                return "the engine is loading its models"
            return f"the engine is starting again after a loss ({self._catalog.lost})"
        if not self._dispatcher.open:
            return "the engine is up and repeats what it lost"
        sampler = self._live.samplers.get(record.sampler_id or "")
        if record.kind is OpKind.SAMPLE and sampler is not None and sampler.loading:
            return "the engine is loading the weights of the sampler"
        return None

    def _waits_for_others(self, record: Record) -> bool:
        """Whether the engine works for others meanwhile, and not for this operation or its owner."""
        if record.kind is OpKind.SAMPLE and self._futures.running:
            return self._futures.running_owners != {record.owner}
        now, settled_at = time.monotonic(), self._futures.usage.settled_at
        if time.time() - record.created_at < _STILL_S or now - settled_at.get(record.owner, 0.0) < _STILL_S:
            return False
        return any(owner != record.owner and now - at < _STILL_S for owner, at in settled_at.items())

    def _others(self, owner: str) -> str:
        pending = self._futures.usage.pending
        keys = len(pending.keys() - {owner})
        number = pending.total() - pending[owner]
        operations = "1 operation" if number == 1 else f"{number} operations"
        whose = "of another key" if keys == 1 else f"of {keys} other keys"
        return f"the engine is shared: {operations} {whose} {'is' if number == 1 else 'are'} under way beside yours"
