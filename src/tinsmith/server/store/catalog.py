"""The base models: which are served, what is known of them, and whether their engine is up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, Text, cast, delete, insert, select
from sqlalchemy.exc import OperationalError

from tinsmith.server.faults import Unavailable, describe
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.tables import BaseModelRow
from tinsmith.types.errors import StartupError, UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.lineup import lookup
from tinsmith.types.facts.loss_table import LOSSES
from tinsmith.types.responses import SupportedModel

log = logging.getLogger("tinsmith.server")

# How long a request waits for an engine that is starting before its client is asked to repeat it.
_START_WAIT_S = 20.0


# Loads a base model that nobody has asked for before; returns its facts and its folder.
LoadModel = Callable[[str], Awaitable[tuple[BaseModelInfo, Path]]]


@dataclass(frozen=True, slots=True)
class BaseModels:
    """Which base models are to be served.

    Attributes:
        folders: by the names that clients use.
        load: how to load further ones when they are first asked for; None serves those of `folders` only.
    """

    folders: Mapping[str, Path]
    load: LoadModel | None = None


class Catalog:
    """Base models by name, and in the database what was last known of them."""

    def __init__(self, db: Database, models: BaseModels) -> None:
        self._db = db
        self._load = models.load
        self._loading = asyncio.Lock()
        self.folders = dict(models.folders)
        self._infos: dict[str, BaseModelInfo] = {}
        self.loaded: set[str] = set()
        self.lost: str | None = None  # why the last engine went, until the next is up
        # Both are about the first start and never cleared: while an engine is restarted what is known stays known, and
        # requests are accepted.
        self._up = asyncio.Event()
        self._complete = asyncio.Event()

    def remember(self) -> None:
        """Read what an earlier life of the service knew."""
        query = select(BaseModelRow.name, cast(BaseModelRow.info, Text))
        known = self._db.read(lambda connection: [(name, info) for name, info in connection.execute(query)])
        for name, info in known:
            if name not in self.folders:
                continue
            try:
                self._infos[name] = BaseModelInfo.model_validate_json(info)
            except ValidationError as error:
                # Only a memory: the engine tells it anew.
                log.warning("base model %s: what was known of it cannot be read: %s", name, describe(error))

    def up(self, models: list[BaseModelInfo]) -> None:
        """An engine host is up with these models."""
        for model in models:
            if (reason := self.other_weights(model.name, model.weights_digest)) is not None:
                log.warning("%s; what began with those fails", reason)
        self._infos = {model.name: model for model in models}
        self.loaded = set(self._infos)
        self.lost = None
        self._up.set()
        if self.healthy:
            self._complete.set()

    async def store(self, models: list[BaseModelInfo]) -> None:
        """Remember what a host has told of its models, for the time before the next one is up.

        Where that cannot be stored the next host tells it anew: a full disk keeps no engine from its work.
        """
        rows = [{"name": model.name, "info": model.model_dump()} for model in models]

        def job(connection: Connection) -> None:
            connection.execute(delete(BaseModelRow).where(BaseModelRow.name.in_([model.name for model in models])))
            connection.execute(insert(BaseModelRow), rows)

        try:
            await self._db.write(job)
        except OperationalError as error:
            log.warning("what the engine has told of its models could not be stored: %s", error.orig)

    def down(self, reason: str) -> None:
        """The engine host is gone."""
        self.loaded = set()
        self.lost = reason

    @property
    def healthy(self) -> bool:
        """Whether every model that is to be served is loaded."""
        return bool(self.loaded) and self.loaded >= set(self.folders)

    async def find(self, name: str) -> BaseModelInfo:
        """Return what is known of a base model, waiting for its engine if it is the first start.

        Raises:
            UserError: it is not served.
            Unavailable: its engine is still starting.
        """
        if name not in self._infos and not self._up.is_set():
            await self.wait_up()
        if name not in self._infos and self._load is not None:
            await self._add(name, self._load)
        if name not in self._infos:
            raise invalid("base_model", name, f"one of {', '.join(sorted(self._infos))}")
        return self._infos[name]

    async def _add(self, name: str, load: LoadModel) -> None:
        """Load a further model, once though several ask for it at a time."""
        async with self._loading:
            # Another request loaded it while this one waited for the lock.
            if name in self._infos:
                return
            try:
                info, folder = await load(name)
            except StartupError as error:
                raise UserError(f"base_model: {error}") from error
            self.folders[name] = folder
            # Before it is stored, under the lock: whoever waits for it finds it.
            self._infos[name] = info
            self.loaded.add(name)

        def job(connection: Connection) -> None:
            connection.execute(delete(BaseModelRow).where(BaseModelRow.name == name))
            connection.execute(insert(BaseModelRow), {"name": name, "info": info.model_dump()})

        await self._db.write(job)

    async def wait_up(self) -> None:
        """Wait for the first engine.

        Raises:
            Unavailable: it is still starting.
        """
        try:
            await asyncio.wait_for(self._up.wait(), _START_WAIT_S)
        except TimeoutError:
            raise Unavailable("the service is still loading its models; retry") from None

    async def wait_loaded(self) -> None:
        """Wait until every model has been loaded once."""
        await self._complete.wait()

    def known(self, name: str) -> BaseModelInfo | None:
        """Return what is known of a base model right now."""
        return self._infos.get(name)

    def weights_digest(self, name: str) -> str | None:
        """Return the digest of a base model's weights; None while none are loaded."""
        info = self._infos.get(name)
        return info.weights_digest if info is not None and name in self.loaded else None

    def other_weights(self, name: str, digest: str | None) -> str | None:
        """Say that a base model's weights are not those of a digest; None where they are, or either is not known."""
        info = self._infos.get(name)
        found = info.weights_digest if info is not None else None
        if None in (found, digest) or found == digest:
            return None
        return f"base model {name!r} has other weights than before (digest {str(found)[:12]}, not {str(digest)[:12]})"

    def listing(self) -> list[SupportedModel]:
        """Return the base models as clients are told of them."""
        return [_listed(info) for info in sorted(self._infos.values(), key=lambda info: info.name)]


def _listed(info: BaseModelInfo) -> SupportedModel:
    facts = lookup(info.name)
    return SupportedModel(
        model_name=info.name,
        max_context_length=info.context_length,
        kind=facts.kind if facts is not None else None,
        architecture=info.architecture,
        hidden_size=info.hidden_size,
        parameters=info.parameters,
        is_moe=info.is_moe,
    )


def losses() -> list[str]:
    """Return the losses that are served."""
    return list(LOSSES)
