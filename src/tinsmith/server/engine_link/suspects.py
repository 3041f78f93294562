"""Which operations ran when an engine was lost, and which of them are not tried again.

A host says what it runs, so a loss has suspects. They are run again with few others, or alone; what ends well is
cleared. One that was alone when an engine was lost, and not for the first time, is given up.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from tinsmith.server.engine_link.dispatcher import Dispatcher, Internal
from tinsmith.server.state.records import Record
from tinsmith.types.engine_messages.host_events import Lost
from tinsmith.types.engine_messages.operations import OpKind

log = logging.getLogger("tinsmith.server")

# So many losses end an operation that was alone at the last of them.
_MOST_LOSSES = 2
# Suspects are run again in so many companies at most. Each by itself would be found with one loss less, but a batch of
# hundreds of samples, of which one is guilty, would take hundreds of times as long.
_COMPANIES = 32


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What is not tried again.

    Attributes:
        what: a client's operation, or one of the service's own.
        message: why.
    """

    what: Record | Internal
    message: str


class Suspects:
    """Counts losses of engines against what they were running."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        # Of the service's own operations, whose ids are new in every life, by what they are for.
        self._internal_losses: Counter[tuple[OpKind, str]] = Counter()

    def lost(self, lost: Lost) -> list[GivenUp]:
        """Take note of a loss, before the dispatcher does; return what is not to be tried again."""
        if lost.from_outside:
            return []
        company = -(-len(lost.running) // _COMPANIES)
        if len(lost.running) > 1:
            log.warning("it was running %d operations, which are tried again %d at once", len(lost.running), company)
        given_up: list[GivenUp] = []
        for request_id in lost.running:
            what = self._dispatcher.find(request_id)
            # Its client has cancelled it, or its session has ended: it will not be run again.
            if what is None:
                continue
            losses = self._count(what, company)
            if len(lost.running) == 1 and losses >= _MOST_LOSSES:
                given_up.append(GivenUp(what, _reason(losses, lost.reason)))
        return given_up

    def _count(self, what: Record | Internal, company: int) -> int:
        if isinstance(what, Internal):
            self._internal_losses[what.kind, what.of] += 1
            return self._internal_losses[what.kind, what.of]
        what.losses += 1
        what.company = company
        return what.losses

    def clear(self, what: Record | Internal) -> None:
        """An operation has an outcome, and what it took is on disk: no engine was lost with it this time."""
        if isinstance(what, Internal):
            self._internal_losses.pop((what.kind, what.of), None)
        else:
            what.losses, what.company = 0, None


def _reason(losses: int, reason: str) -> str:
    times = "twice" if losses == 2 else f"{losses} times"
    return f"the engine was lost {times} while it ran this operation, which is not tried again; the last time: {reason}"
