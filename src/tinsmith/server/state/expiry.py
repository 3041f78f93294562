"""Which operations may have outlived their time, found without a look at all that are kept."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from tinsmith.server.state.records import Record


class Expiry:
    """Settled operations by the moment from which their time counts.

    A record is noted whenever something happens that it may have to be forgotten for: its outcome, its first delivery,
    the end of its session, a recovery point behind it. Each note is looked at once.
    """

    def __init__(self) -> None:
        # Refusals are kept for a shorter time, so that each queue has one length of time. The count keeps records,
        # which have no order, from being compared.
        self._results: list[tuple[float, int, Record]] = []
        self._refusals: list[tuple[float, int, Record]] = []
        self._count = itertools.count()

    def note(self, records: Iterable[Record]) -> None:
        """Look at settled operations again once their time is over, counted from what happened to them last."""
        for record in records:
            moments = [at for at in (record.settled_at, record.fetched_at) if at is not None]
            if moments and record.settled.is_set():
                queue = self._refusals if record.at_door else self._results
                heapq.heappush(queue, (min(moments), next(self._count), record))
                if len(moments) > 1:
                    heapq.heappush(queue, (max(moments), next(self._count), record))

    def due(self, results: float, refusals: float) -> list[Record]:
        """Return what was noted for a moment before these, each record once, and forget the notes.

        Args:
            results, refusals: of operations that were accepted, of those that were refused at the door.
        """
        found: dict[Record, None] = {}
        for queue, over in ((self._results, results), (self._refusals, refusals)):
            while queue and queue[0][0] < over:
                found[heapq.heappop(queue)[2]] = None
        return list(found)
