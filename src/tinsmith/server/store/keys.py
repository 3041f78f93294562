"""API keys: stored hashed, each with an owner and a weight; a request is its owner's.

Keys of one owner have one account of engine time, whose weight is the largest of those keys that are not revoked: runs
and samplers belong to the owner, and no request's share depends on which key it came with.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.readable import read_rows, sound
from tinsmith.server.store.db.tables import ApiKey
from tinsmith.types.errors import Damaged, StartupError, UserError, invalid

log = logging.getLogger("tinsmith.server")

PREFIX = "tml-"
LOCAL = "local"
# How long a look-up is trusted; a key revoked by another process works for so long.
_TRUST_S = 1.0
# How often the keys of polls that are being held are looked at.
_LOOK_S = 1.0
_CHUNK = 500  # keys per statement; SQLite allows about a thousand parameters on old versions
# A lighter owner would wait for a hundred turns of everybody else, and so would everybody beside a heavier one.
LIGHTEST, HEAVIEST = 0.01, 100.0


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; never the key itself."""

    id: int
    owner: str
    name: str
    shown: str
    created_at: float
    revoked_at: float | None
    weight: float


def check_weight(weight: float) -> None:
    """Check the weight of a key.

    Raises:
        UserError: it is out of bounds.
    """
    if not LIGHTEST <= weight <= HEAVIEST:
        raise invalid("weight", f"{weight:g}", f"{LIGHTEST:g} to {HEAVIEST:g}; 1 is what everybody has")


def check_token(token: str) -> None:
    """Check that a key has the form that clients accept.

    Raises:
        StartupError: it has not.
    """
    if not token.startswith(PREFIX) or len(token) < len(PREFIX) + 8 or not token.isascii() or " " in token:
        raise StartupError(
            f"TINSMITH_API_KEY: got a key that begins with {token[:4]!r}, "
            f"expected '{PREFIX}' and at least 8 characters without blanks"
        )


class KeyStore:
    """Makes, finds and revokes keys."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._trusted: dict[str, tuple[float, str | None]] = {}
        self._looking: dict[str, asyncio.Task[str | None]] = {}
        self._weights: dict[str, float] = {}

    # -- for the service ----------------------------------------------------------------------------------------------

    async def owner_of(self, token: str) -> str | None:
        """Return whose key this is; None if it is nobody's.

        Raises:
            Damaged: its row cannot tell.
        """
        hashed = hash_of(token)
        until, owner = self._trusted.get(hashed, (0.0, None))
        if until >= time.monotonic():
            return owner
        # One look for all requests of a key that came meanwhile: each by itself would take longer the more there are,
        # and where that is longer than a look is trusted, none of them would ever save another one.
        looking = self._looking.get(hashed)
        if looking is None:
            looking = self._looking[hashed] = asyncio.create_task(self._look_up(hashed))
            looking.add_done_callback(lambda _: self._looking.pop(hashed))
        # A request that goes away must not take the others' answer with it.
        return await asyncio.shield(looking)

    async def _look_up(self, hashed: str) -> str | None:
        query = select(ApiKey.id).where(ApiKey.key_hash == hashed, ApiKey.revoked_at.is_(None))
        found = await self._db.read_async(lambda connection: read_rows(connection, ApiKey, query))
        if found and (fault := found[0].fault("owner")) is not None:
            raise Damaged(fault)
        owner = found[0].row.owner if found else None
        if owner is not None:  # an unknown key is looked up again, so that guessing fills no memory
            await self.learn_weights(owner)
            self._trusted[hashed] = (time.monotonic() + _TRUST_S, owner)
        else:
            self._trusted.pop(hashed, None)
        return owner

    async def watch(self, futures: FutureStore) -> None:
        """Let polls end whose key is revoked, until cancelled: one look for all that are being held.

        Another process may revoke a key, and nothing tells this one of it.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            held = futures.keys_of_polls()
            try:
                known = await self._valid(held) if held else set()
            except SQLAlchemyError as error:
                log.warning("the keys of polls could not be looked at: %s", error)
                continue
            until = time.monotonic() + _TRUST_S
            for hashed in held:
                if hashed in known and hashed in self._trusted:
                    # A poll that ends now need not ask again.
                    self._trusted[hashed] = (until, self._trusted[hashed][1])
                elif hashed not in known:
                    self._trusted.pop(hashed, None)
                    futures.release_polls_of(hashed)

    async def _valid(self, hashes: list[str]) -> set[str]:
        """Return those that are of keys and not revoked."""

        def job(connection: Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(hashes), _CHUNK):
                some = ApiKey.key_hash.in_(hashes[start : start + _CHUNK])
                query = select(ApiKey.key_hash).where(some, ApiKey.revoked_at.is_(None))
                found.update(connection.execute(query).scalars())
            return found

        return await self._db.read_async(job)

    async def learn_weights(self, owner: str | None = None) -> None:
        """Read what an owner, or everybody, weighs now; known for each owner whose key was just looked up."""
        query = select(ApiKey.id).where(ApiKey.revoked_at.is_(None))
        if owner is not None:
            query = query.where(ApiKey.owner == owner)
        rows = await self._db.read_async(lambda connection: sound(read_rows(connection, ApiKey, query)))
        found: dict[str, float] = {}
        for row in rows:
            found[row.owner] = max(row.weight, found.get(row.owner, LIGHTEST))
        self._weights |= {name: min(weight, HEAVIEST) for name, weight in found.items()}

    def weight_of(self, owner: str) -> float:
        """Return what an owner weighs; 1 for one without keys, as in an embedded service."""
        return self._weights.get(owner, 1.0)

    async def describe(self, token: str) -> Key | None:
        """Return what is known of a key."""
        query = select(*_COLUMNS).where(ApiKey.key_hash == hash_of(token))
        row = await self._db.read_async(lambda connection: connection.execute(query).first())
        return Key(*row) if row is not None else None

    async def ensure_first(self, given: str | None) -> str | None:
        """Make the first key, `given` or a new one, and return it; None if there are keys already.

        Raises:
            StartupError: the given key has another form than clients accept.
        """
        if given is not None:
            check_token(given)
        if await self._db.read_async(lambda connection: connection.execute(_COUNT).scalar_one()):
            return None
        token = given or new_token()
        await self.create(LOCAL, "first", token)
        return token

    # -- for the command line -----------------------------------------------------------------------------------------

    async def create(self, owner: str, name: str, token: str | None = None, weight: float = 1.0) -> str:
        """Store a key for an owner and return it; it cannot be read again.

        Raises:
            UserError: the weight is out of bounds.
        """
        check_weight(weight)
        token = token or new_token()
        row = {
            "key_hash": hash_of(token),
            "owner": owner,
            "name": name,
            # Enough to recognise a key by, too little to guess it from.
            "shown": token[-4:],
            "created_at": time.time(),
            "weight": weight,
        }
        await self._db.write(lambda connection: connection.execute(insert(ApiKey), row))
        return token

    async def all(self) -> list[Key]:
        """Return all keys, oldest first."""
        query = select(ApiKey.id).order_by(ApiKey.id)
        rows = await self._db.read_async(lambda connection: sound(read_rows(connection, ApiKey, query)))
        return [Key(*(getattr(row, column.key) for column in _COLUMNS)) for row in rows]

    async def revoke(self, key_id: int) -> None:
        """End a key.

        Raises:
            UserError: there is no such key, or it is revoked already.
        """
        statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))

        def job(connection: Connection) -> int:
            return connection.execute(statement.values(revoked_at=time.time())).rowcount

        if not await self._db.write(job):
            raise UserError(f"key: got {key_id}, expected the id of a key that is not revoked")


_COLUMNS = (ApiKey.id, ApiKey.owner, ApiKey.name, ApiKey.shown, ApiKey.created_at, ApiKey.revoked_at, ApiKey.weight)
_COUNT = select(func.count()).select_from(ApiKey)


def new_token() -> str:
    """Return a new key with 256 bits that cannot be guessed."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """Return what is stored of a key."""
    # A plain hash is enough: keys are random and long, so there is nothing to try out.
    return hashlib.sha256(token.encode()).hexdigest()
