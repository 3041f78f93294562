"""The futures that clients poll: who asked what, whether it was asked before, and for how long an answer is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from tinsmith.server.state.pace import Pace, release
from tinsmith.server.state.records import Record, State
from tinsmith.server.state.usage import Usage
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import UserError, invalid

K = TypeVar("K")


class FutureStore:
    """All operations that a client may still ask about, by request id and by idempotency key.

    Args:
        now: the service's time, seconds; outcomes and deliveries are dated by it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._records: dict[str, Record] = {}
        self._scopes: dict[str, Record] = {}
        self._fetched: list[Record] = []
        # What each poll that is being held waits for. Futures and no tasks: there are as many polls as operations,
        # and each task takes rounds of the loop to begin and to be cancelled.
        self._held: dict[Record, set[asyncio.Future[None]]] = {}
        # The same by the key that each came with.
        self._held_by_key: dict[str, set[asyncio.Future[None]]] = {}
        self._pace = Pace()
        # Whether polls are held no more, because the service is about to stop.
        self.closing = False
        self.usage = Usage()
        # The samples that the engine computes, as it said last, and whose they are.
        self.running: frozenset[str] = frozenset()
        self.running_owners: frozenset[str] = frozenset()

    def add(self, record: Record) -> None:
        """Add an operation; its idempotency key must be free."""
        if record.scope is not None:
            if record.scope in self._scopes:
                raise ValueError(f"scope {record.scope} is taken")
            self._scopes[record.scope] = record
        self._records[record.request_id] = record
        if record.at_door:
            self.usage.keep_refusal(record)
        elif record.state is State.PENDING:
            self.usage.begin(record)

    def discard(self, record: Record) -> None:
        """Take back an operation that could not be stored, or forget one."""
        if self._records.pop(record.request_id, None) is None:
            return
        if record.scope is not None:
            del self._scopes[record.scope]
        if record.at_door:
            self.usage.forget_refusal(record)
        elif not record.settled.is_set():
            self.usage.end(record)

    def mark_settled(self, record: Record) -> None:
        """Wake whoever waits for the outcome, which is stored."""
        if record.settled.is_set():
            return
        # One that could not be stored was taken back, whatever has become of it since.
        if not record.at_door and record.request_id in self._records:
            self.usage.end(record)
        record.settled.set()
        self._pace.end(self._held.pop(record, ()))

    def note_running(self, request_ids: Iterable[str]) -> None:
        """Take in which samples the engine computes."""
        self.running = frozenset(request_ids)
        # Once for all polls that will be answered until it says more.
        records = map(self._records.get, self.running)
        self.running_owners = frozenset(record.owner for record in records if record is not None)

    def by_scope(self, scope: str | None) -> Record | None:
        """Return the operation that has an idempotency key."""
        return self._scopes.get(scope) if scope is not None else None

    def find(self, request_id: str) -> Record | None:
        """Return an operation by its id."""
        return self._records.get(request_id)

    def get(self, request_id: str, owner: str) -> Record:
        """Return an operation of the owner's.

        Raises:
            UserError: there is none (404).
        """
        record = self._records.get(request_id)
        if record is None or record.owner != owner:
            raise invalid("request_id", request_id, "a request of yours whose result has not expired", status=404)
        return record

    async def wait(self, record: Record, seconds: float, key: str | None = None) -> bool:
        """Wait until an operation is settled, for at most so long; say whether it is.

        Args:
            key: whose poll it is; `release_polls_of` ends the wait.
        """
        if record.settled.is_set() or self.closing:
            return record.settled.is_set()
        loop = asyncio.get_running_loop()
        held: asyncio.Future[None] = loop.create_future()
        self._held.setdefault(record, set()).add(held)
        if key is not None:
            self._held_by_key.setdefault(key, set()).add(held)
        timer = loop.call_later(seconds, release, (held,))
        try:
            await held
        finally:
            timer.cancel()
            _let_go(self._held, record, held)
            if key is not None:
                _let_go(self._held_by_key, key, held)
        return record.settled.is_set()

    def release_polls(self) -> None:
        """Let polls that are being held end, and hold none from now on."""
        self.closing = True
        self._pace.end_all()
        for polls in self._held.values():
            release(polls)

    def keys_of_polls(self) -> list[str]:
        """Return the keys that polls which are being held came with."""
        return list(self._held_by_key)

    def release_polls_of(self, key: str) -> None:
        """Let the polls that came with a key end."""
        release(self._held_by_key.get(key, ()))

    def fetched(self, record: Record) -> None:
        """Note that an outcome was delivered; the time until it expires counts from the first delivery."""
        if record.fetched_at is None:
            record.fetched_at = self.now()
            # Stored by the next sweep: a poll should not wait for a write.
            self._fetched.append(record)

    def take_fetched(self) -> list[Record]:
        """Return operations whose first delivery is not stored yet, and forget that."""
        fetched, self._fetched = self._fetched, []
        return fetched

    def pending(self, test: Callable[[Record], bool]) -> list[Record]:
        """Return the operations without an outcome that pass a test, in the order of their arrival."""
        return [r for r in self._records.values() if r.state is State.PENDING and test(r)]

    def records(self) -> Iterable[Record]:
        """Return all operations in the order of their arrival."""
        return self._records.values()


def _let_go(polls: dict[K, set[asyncio.Future[None]]], key: K, held: asyncio.Future[None]) -> None:
    others = polls.get(key, set())
    others.discard(held)
    if not others:
        polls.pop(key, None)


def check_same(record: Record, payload_hash: str) -> None:
    """Check that a repeated request is the one that was sent first.

    Raises:
        UserError: the same idempotency key came with another payload.
    """
    if record.payload_hash != payload_hash:
        what = "seq_id" if record.seq_id is not None or record.kind is OpKind.SAMPLE else "model_seq_id"
        raise UserError(f"{what}: got one that an earlier request with other contents used, expected the next free one")
