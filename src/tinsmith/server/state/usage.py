"""How much of the service each owner takes right now, counted as operations come and go."""

from __future__ import annotations

import time
from collections import Counter

from tinsmith.server.state.records import Record
from tinsmith.types.engine_messages.operations import OpKind


class Usage:
    """Counts by owner. Every request asks for them, and to search for them takes longer the more operations there are.

    An owner of whom nothing is left is in none of them, so that their lengths count owners.

    Attributes:
        pending: operations without an outcome.
        settled_at: when an operation last had one, seconds, monotonic; of owners that have others pending.
        samples: sampling requests without an outcome.
        pass_tokens, sample_tokens: tokens that operations without an outcome may cost. Apart, so that samples which
            fill one up again and again never keep a training step out.
        saving: bytes that saves without an outcome will take.
        refusals: requests that were refused at the door and are kept for their client.
    """

    def __init__(self) -> None:
        self.pending: Counter[str] = Counter()
        self.settled_at: dict[str, float] = {}
        self.samples: Counter[str] = Counter()
        self.pass_tokens: Counter[str] = Counter()
        self.sample_tokens: Counter[str] = Counter()
        self.saving: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def begin(self, record: Record) -> None:
        """Count an operation that has no outcome yet."""
        self._change(record, 1)

    def end(self, record: Record) -> None:
        """Count it no more."""
        self._change(record, -1)
        if record.owner in self.pending:
            self.settled_at[record.owner] = time.monotonic()
        else:
            self.settled_at.pop(record.owner, None)

    def keep_refusal(self, record: Record) -> None:
        """Count a refused request."""
        _add(self.refusals, record.owner, 1)

    def forget_refusal(self, record: Record) -> None:
        """Count it no more."""
        _add(self.refusals, record.owner, -1)

    def tokens(self, record: Record) -> int:
        """Return the tokens in flight that an operation would add to."""
        return self._tokens(record)[record.owner]

    def _tokens(self, record: Record) -> Counter[str]:
        return self.sample_tokens if record.kind is OpKind.SAMPLE else self.pass_tokens

    def _change(self, record: Record, sign: int) -> None:
        _add(self.pending, record.owner, sign)
        _add(self.samples, record.owner, sign * (record.kind is OpKind.SAMPLE))
        _add(self._tokens(record), record.owner, sign * record.tokens)
        _add(self.saving, record.owner, sign * record.saves_bytes)


def _add(counts: Counter[str], owner: str, number: int) -> None:
    counts[owner] += number
    if not counts[owner]:
        del counts[owner]
