"""Where a tokenizer comes from: a local folder, the connected service (with a cache), the hub."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import tempfile
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.transport.connection import Connection, latest_connection
from tinsmith.client.transport.exchange import checked
from tinsmith.client.transport.futures import wait_blocking
from tinsmith.client.transport.loop import background
from tinsmith.client.transport.opening import open_connection
from tinsmith.hub import fetch, list_files
from tinsmith.model_files.tokenizer_fields import ChatTemplate, join_files, read_templates, read_tokenizer_folder
from tinsmith.model_files.tokenizer_json import make_tokenizer
from tinsmith.models import NAMES as SHIPPED
from tinsmith.models import path as shipped_path
from tinsmith.types.environment import read_settings
from tinsmith.types.errors import APIError, APIResponseValidationError, TinsmithError, UserError

logger = logging.getLogger("tinsmith")

_NOT_MODIFIED = 304
_NOT_FOUND = 404

# The tokenizers that a connection gave, by the names asked for. By connection, because two services may serve different
# models under one name; weak, so that they go when it goes. Only coroutines of the SDK's loop touch it.
_known: weakref.WeakKeyDictionary[Connection, dict[str, Tokenizer]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Bundle:
    """The files of a tokenizer.

    Attributes:
        tokenizer_json: contents of `tokenizer.json`.
        tokenizer_config: fields of `tokenizer_config.json`.
        chat_template: the template, from its own file or from the config; several by name.
        etag: of the service's answer.
    """

    tokenizer_json: str
    tokenizer_config: dict[str, Any]
    chat_template: ChatTemplate | None = None
    etag: str | None = None

    def tokenizer(self, name: str) -> Tokenizer:
        """Make the tokenizer."""
        backend = make_tokenizer(f"tokenizer of {name}: tokenizer.json", self.tokenizer_json)
        return Tokenizer(backend, self.tokenizer_config, self.chat_template, name)


def get_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a model.

    Looks at a local folder (or the models that ship with the package), the service that this process talks to or
    that `TINSMITH_BASE_URL` names (with a cache of what it gave before), and the hub, in that order.

    Args:
        name: a model's name, or a folder with `tokenizer.json`.

    Raises:
        TinsmithError: none of them has it; the message says what each answered.
    """
    # The last one made: in a script with one service, which is nearly every script, that is the service.
    connection = latest_connection()
    if connection is None:
        connection = _named_connection()
    return wait_blocking(background().submit(find_tokenizer(name, connection)))


def _named_connection() -> Connection | None:
    return open_connection() if read_settings().base_url else None


async def find_tokenizer(name: str, connection: Connection | None) -> Tokenizer:
    """Return the tokenizer of a model; see `get_tokenizer`."""
    # Without a connection it is a folder or the hub, whose files may change while the process runs: read them again.
    known = _known.setdefault(connection, {}) if connection is not None else {}
    if name not in known:
        known[name] = await _find(name, connection)
    return known[name]


async def _find(name: str, connection: Connection | None) -> Tokenizer:
    source = _source(name, connection)
    bundle = await asyncio.to_thread(_from_folder, source)
    if bundle is not None:
        return bundle.tokenizer(name)
    # What each place answered, for the message where none has it.
    told: list[str] = []
    if connection is not None and connection.address.base_url is not None:
        bundle = await _from_service(name, connection, told)
    else:
        # The embedded service has its models from folders and the hub, too.
        if await asyncio.to_thread(Path(source).expanduser().is_dir):
            raise TinsmithError(
                f"no tokenizer for {name!r}: the folder has no tokenizer.json. Put one there, or work with token ids: "
                "SamplingClient.sample takes and returns them"
            )
        told.append("no service at a URL is connected")
    if bundle is None:
        bundle = await asyncio.to_thread(_from_hub, source, told)
    if bundle is None:
        raise TinsmithError(
            f"no tokenizer for {name!r}: it is no folder with a tokenizer.json; {'; '.join(told)}. Connect to the "
            "service that serves it (base_url= or TINSMITH_BASE_URL), or give a folder"
        )
    return bundle.tokenizer(name)


def _source(name: str, connection: Connection | None) -> str:
    """Return what a name stands for in this process: the settings name models of the embedded service."""
    served = connection is not None and connection.address.base_url is not None
    return name if served else read_settings().models.get(name, name)


# -- folder -----------------------------------------------------------------------------------------------------------


def _from_folder(name: str) -> Bundle | None:
    folder = shipped_path(name) if name in SHIPPED else Path(name).expanduser()
    return read_folder(folder) if (folder / "tokenizer.json").exists() else None


def read_folder(folder: Path) -> Bundle:
    """Read the tokenizer files of a checkpoint folder.

    Raises:
        UserError: one of them cannot be read; names the file.
    """
    return Bundle(*read_tokenizer_folder("tokenizer", folder))


# -- service ----------------------------------------------------------------------------------------------------------


async def _from_service(name: str, connection: Connection, told: list[str]) -> Bundle | None:
    """Ask the service, with the cached copy's tag; where it cannot be reached, the copy has to do."""
    file = _cache_file(name, connection)
    cached = await asyncio.to_thread(_read_cache, file) if file is not None else None
    # A tag is checked at every start: a model of the same name may have been replaced.
    headers = {"If-None-Match": cached.etag} if cached is not None and cached.etag else {}
    try:
        response = await connection.attempt("GET", "tokenizer", params={"model": name}, headers=headers)
        if response.status_code == _NOT_MODIFIED and cached is not None:
            return cached
        if response.status_code == _NOT_FOUND:
            told.append(f"{connection.address} does not know it")
            return None
        bundle = _parse(checked(response).json(), response.headers.get("etag"))
    except APIError as error:
        told.append(f"{connection.address}: {error}")
        return cached
    if file is not None:
        await asyncio.to_thread(_write_cache, file, bundle)
    return bundle


def _parse(answer: Any, etag: str | None) -> Bundle:
    try:
        raw = answer["tokenizer_json"]
        text = raw if isinstance(raw, str) else json.dumps(raw)
        config: dict[str, Any] = answer.get("tokenizer_config") or {}
        bundle = Bundle(text, config, read_templates(answer.get("chat_template") or config.get("chat_template")))
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise APIResponseValidationError(f"tokenizer: the answer holds none ({error!r})", body=answer) from error
    return replace(bundle, etag=etag)


def _cache_file(name: str, connection: Connection) -> Path | None:
    if connection.address.base_url is None:
        return None
    # Two services may serve different models under one name.
    key = hashlib.sha256(f"{connection.address.base_url}\n{name}".encode()).hexdigest()[:32]
    return connection.settings.home / "tokenizers" / f"{key}.json"


def _read_cache(file: Path) -> Bundle | None:
    try:
        return Bundle(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("the cached tokenizer %s is not readable (%s) and is fetched again", file, error)
        return None


def _write_cache(file: Path, bundle: Bundle) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into its place when it is whole: another process may read the same file at any moment.
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(asdict(bundle), out)
        os.replace(temporary, file)
    except OSError as error:
        logger.warning("the tokenizer could not be cached in %s: %s", file.parent, error)


# -- hub --------------------------------------------------------------------------------------------------------------


def _from_hub(name: str, told: list[str]) -> Bundle | None:
    def read(file: str) -> str | None:
        # None where the repository has no such file; only the first one is a must.
        path = fetch(name, file)
        return None if path is None else path.read_text(encoding="utf-8")

    try:
        fields = join_files(f"the hub: {name}", read, lambda folder: list_files(name, folder))
        if fields is None:
            told.append("the hub has it without a tokenizer.json")
        return None if fields is None else Bundle(*fields)
    except (OSError, ValueError) as error:
        told.append(f"the hub: {str(error).strip().splitlines()[0]}")
        return None
