"""A service's hold on its database and its blob store: taken at the start, kept fresh, given back at the stop.

The lock of the data folder keeps two services off one folder. It says nothing of a database or a bucket that both of
them name by URL, from two folders or two machines; there the second would answer, sweep and replay what is the first's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import anyio.to_thread
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.faults import NotOurs
from tinsmith.server.store.ownership.marks import BEAT_S, SILENT_S, Life, Mark, elsewhere, holder, life, new_mark
from tinsmith.server.store.ownership.places import Place, others_mark
from tinsmith.types.errors import StartupError

log = logging.getLogger("tinsmith.server")

# A silent holder is watched for two signs of life and a bit: clocks of two machines may differ, and his may be wrong.
_WATCH_S = 2 * BEAT_S + 2

# Ids of the services that are alive in this process.
_ours: set[str] = set()


class Ownership:
    """What a service holds.

    Attributes:
        lost: done once another service has taken something, with the line that says so.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._mark: Mark = new_mark(time.time())
        self._held: dict[Place, str] = {}
        # Where the last sign of life could not be left; said once.
        self._silent: set[Place] = set()
        self._line: str | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def take(self) -> None:
        """Take all places, from holders that are dead if need be.

        Raises:
            StartupError: another service holds one; says who, since when and what to do.
        """
        _ours.add(self._mark.id)
        try:
            for place in self._places:
                await self._take(place)
        except BaseException:
            self.release()
            raise

    async def _take(self, place: Place) -> None:
        while True:
            found = await anyio.to_thread.run_sync(place.read)
            if found is not None and not await _is_dead(place, found):
                raise StartupError(_refusal(place, found))
            text = self._mark.text()
            if not await anyio.to_thread.run_sync(place.swap, found, text):
                continue  # somebody was quicker
            self._held[place] = text
            if found is not None:
                log.info("%s: taken over from %s, which is dead", place.name, holder(found, time.time()))
            return

    async def keep(self) -> None:
        """Give signs of life until cancelled, given back, or taken by another service."""
        try:
            while self._held and not self.lost.done():
                await asyncio.sleep(BEAT_S)
                for place in list(self._held):
                    await self._beat(place)
        finally:
            _ours.discard(self._mark.id)

    async def _beat(self, place: Place) -> None:
        fresh = self._mark.refreshed(time.time()).text()
        try:
            if await anyio.to_thread.run_sync(place.swap, self._held[place], fresh):
                self._held[place] = fresh
                self._silent.discard(place)
                return
            found = await anyio.to_thread.run_sync(place.read)
        except (SQLAlchemyError, OSError) as error:
            # A full disk, say, or a network: whoever takes it over meanwhile is seen once it can be read again.
            if place not in self._silent:
                log.warning("%s: no sign of life can be left: %s", place.name, error)
            self._silent.add(place)
            return
        if found == fresh:  # it was written, and the answer was lost
            self._held[place] = fresh
            return
        self._lose(_loss(place.name, found))

    def check(self, connection: Connection) -> None:
        """Check, in a transaction that is to write, that the database is still this service's.

        Raises:
            NotOurs: it is not.
        """
        if self._line is None and (found := others_mark(connection, self._mark.id)) is not None:
            self._line = _loss("database", found)
            self.lost.get_loop().call_soon_threadsafe(self._lose, self._line)
        if self._line is not None:
            raise NotOurs(self._line)

    def _lose(self, line: str) -> None:
        self._line = line
        if not self.lost.done():
            log.error("%s; this service stops", line)
            self.lost.set_result(line)

    def release(self) -> None:
        """Give back what is still held."""
        for place, text in self._held.items():
            try:
                place.swap(text, None)
            except (SQLAlchemyError, OSError) as error:
                log.warning("%s: it could not be given back: %s", place.name, error)
        self._held.clear()
        _ours.discard(self._mark.id)


async def _is_dead(place: Place, found: str) -> bool:
    now = life(found, frozenset(_ours), time.time())
    if now is not Life.SILENT:
        return now is Life.DEAD
    log.info("%s: watched for %g s, because %s may be alive", place.name, _WATCH_S, holder(found, time.time()))
    await asyncio.sleep(_WATCH_S)
    return await anyio.to_thread.run_sync(place.read) == found


def _loss(name: str, found: str | None) -> str:
    if not found:
        return f"{name}: this service's mark is gone, expected it to stay while the service lives"
    return f"{name}: taken over by {holder(found, time.time())}"


def _refusal(place: Place, found: str) -> str:
    way_out = f"stop that one, or give this one another {place.setting}"
    if elsewhere(found):
        way_out += f"; if it is dead, start again {SILENT_S:g} s after its last sign of life"
    return f"{place.name}: held by {holder(found, time.time())}, expected one that no other service works on; {way_out}"
