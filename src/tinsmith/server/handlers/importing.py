"""The door of adapters made elsewhere: a PEFT folder comes in and becomes a training state and weights to sample from.

An import is a session of its own with one training run: it loads the files that came, saves under both kinds, and ends.
So it is journalled and survives a restart like any other work.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio.to_thread

from tinsmith.adapter_files.expert_parts import fuse_experts
from tinsmith.adapter_files.manifest import seal_arrival
from tinsmith.adapter_files.peft_config import parse_config
from tinsmith.adapter_files.peft_parts import lora_of, read_parts
from tinsmith.model_files.safetensors_header import LENGTH_BYTES, TensorEntry, header_length, parse_header
from tinsmith.server.handlers.creation import CreationHandler
from tinsmith.server.handlers.intake.bodies import parse
from tinsmith.server.handlers.intake.limits import Limits, saved_bytes
from tinsmith.server.handlers.intake.upload import Upload
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.handlers.sessions import SessionsHandler
from tinsmith.server.json_bytes import to_bytes
from tinsmith.server.state.notes import ImportNote, LoadNote, SaveNote
from tinsmith.server.state.records import Record
from tinsmith.server.store.checkpoint_store import check_ttl
from tinsmith.server.store.core import Core
from tinsmith.server.store.folder.durable import sync_tree
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tinsmith.types.names.ids import training_run_id
from tinsmith.types.names.paths import check_name
from tinsmith.types.params import LoraConfig
from tinsmith.types.requests import CreateSessionRequest, FinishReason, FinishSessionRequest, ImportCheckpointRequest

# Of the line of JSON: names, an adapter_config.json, metadata.
_MOST_LINE = 2**20
# Of the list of tensors: safetensors itself allows 100 MB, an adapter of some thousand tensors needs a few hundred kB.
_MOST_HEADER = 16 * 2**20
_FLOATS = ("F64", "F32", "F16", "BF16")


class ImportingHandler:
    """Turns uploads into operations."""

    def __init__(
        self,
        core: Core,
        sessions: SessionsHandler,
        creation: CreationHandler,
        saving: SavingHandler,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._sessions = sessions
        self._creation = creation
        self._saving = saving
        self._settings = core.settings
        self._live = core.live
        self._catalog = core.catalog
        self._data_folder = core.data_folder
        self._futures = core.futures

    async def accept(self, owner: str, key: str, stream: AsyncIterator[bytes]) -> list[Record]:
        """Accept an import.

        Args:
            key: tells a repeated request from a second one; empty where the client has none.
            stream: the body: a line of JSON (`ImportCheckpointRequest`), then the safetensors file.

        Returns:
            the load, the save of the state and the save for sampling, in this order.

        Raises:
            UserError: the request, the config or the file is at fault; nothing of it is kept.
            OSError: it could not be stored; nothing of it is kept.
        """
        upload = Upload(stream, self._settings.max_import_mb * 2**20)
        load = self._repeated(owner, key)
        try:
            if load is None:
                load = await self._load(owner, key, upload)
        finally:
            # A client that is still sending would not read the answer, whatever it says.
            await upload.drain()
        accepted = [load, *await self._save(load)]
        # What was asked for is carried out before the session ends.
        reason = FinishReason(type="success")
        await self._sessions.finish(owner, load.session_id or "", FinishSessionRequest(reason=reason))
        return accepted

    def _repeated(self, owner: str, key: str) -> Record | None:
        """Return the load of the same request that was accepted before, unless its session ended half-way."""
        for record in self._futures.records():
            if key and record.kind is OpKind.LOAD_STATE and record.owner == owner:
                whole = self._futures.by_scope(_scope(record, 2)) is not None
                imported = _imported(record)
                known = imported is not None and imported.key == key
                if known and (whole or record.session_id in self._live.sessions):
                    return record
        return None

    async def _load(self, owner: str, key: str, upload: Upload) -> Record:
        request = await parse(ImportCheckpointRequest, await upload.line(_MOST_LINE))
        check_name(request.name)
        check_ttl(request.ttl_seconds, self._settings.checkpoint_min_ttl_s, self._settings.checkpoint_max_ttl_s)
        info = await self._catalog.find(request.base_model)
        config = to_bytes(request.adapter_config)
        prefix = await upload.take(LENGTH_BYTES, ADAPTER_WEIGHTS)
        header = await upload.take(header_length(ADAPTER_WEIGHTS, prefix, _MOST_HEADER), f"{ADAPTER_WEIGHTS}: header")
        lora, size = await anyio.to_thread.run_sync(_check, config, header, info.experts_per_token)
        if lora.rank > self._settings.max_lora_rank:
            limit = f"at most {self._settings.max_lora_rank}, of an expert that over the experts per token"
            raise invalid(f"{ADAPTER_CONFIG}: r", lora.rank, limit)
        # Before anything is written; the disk may still fill up meanwhile, see below.
        self._check_room(size)
        stored = sum(saved_bytes(info, lora, kind) for kind in ("weights", "sampler_weights"))
        await self._limits.check_stored(owner, ADAPTER_WEIGHTS, stored)
        display_name = f"import of {request.name}"
        session_id = await self._sessions.create(owner, CreateSessionRequest(display_name=display_name))
        session = self._live.sessions[session_id]
        save = SaveNote(request.name, request.ttl_seconds, request.user_metadata)
        try:
            folder = self._data_folder.new_recovery(training_run_id(session_id, 0), "loaded")
            place = self._data_folder.absolute(folder)
            await anyio.to_thread.run_sync(_begin, place, {ADAPTER_CONFIG: config, ADAPTER_WEIGHTS: prefix + header})
            # A session may be silent for so long only, and an upload can take longer.
            await upload.copy(
                place / ADAPTER_WEIGHTS, size, ADAPTER_WEIGHTS, lambda: self._live.session(session_id, owner)
            )
            # Whoever loads it, now or after a restart, compares it with what has arrived.
            await anyio.to_thread.run_sync(seal_arrival, place)
            if self._data_folder.durable:
                await anyio.to_thread.run_sync(sync_tree, place)
            note = LoadNote(f"adapter {request.name}", ImportNote(key, save))
            return await self._creation.load_adapter(session, request.base_model, lora, folder, note)
        # A client that went away is one of them: its request was cancelled.
        except BaseException as error:
            await self._sessions.end(session, "interrupted", f"the import failed: {error}")
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_room(size) from error
            raise

    async def _save(self, load: Record) -> list[Record]:
        """Accept the saves of a loaded adapter, those that were accepted before excepted."""
        imported = _imported(load)
        if imported is None:
            raise ValueError(f"operation {load.request_id}: got no import, expected the load of one")
        how = imported.save
        told = {"path": how.name, "ttl_seconds": how.ttl_seconds, "user_metadata": how.user_metadata}
        saves: list[Record] = []
        for seq, save in enumerate((self._saving.save_weights, self._saving.save_weights_for_sampler), 1):
            fields = {**told, "model_id": load.model_id, "seq_id": seq}
            known = self._futures.by_scope(_scope(load, seq))
            # As it is read: with NaN, which answers cannot say, and numbers of any length.
            saves.append(known or await save(load.owner, json.dumps(fields).encode()))
        return saves

    def _check_room(self, size: int) -> None:
        if shutil.disk_usage(self._data_folder.root).free < size:
            raise self._no_room(size)

    def _no_room(self, size: int) -> UserError:
        free = shutil.disk_usage(self._data_folder.root).free
        return invalid(
            ADAPTER_WEIGHTS, f"{size} bytes", f"no more than the service has room for ({free} bytes)", status=507
        )


def _imported(record: Record) -> ImportNote | None:
    return record.note.imported if isinstance(record.note, LoadNote) else None


def _scope(load: Record, seq: int) -> str:
    return f"train:{load.model_id}:{seq}"


def _begin(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _check(config: bytes, header: bytes, experts_per_token: int) -> tuple[LoraConfig, int]:
    """Return the adapter's shape and the bytes of its data."""
    parsed = parse_config(ADAPTER_CONFIG, config)
    entries, size = parse_header(ADAPTER_WEIGHTS, header)
    _check_dtypes(entries)
    adapter = fuse_experts(read_parts(ADAPTER_WEIGHTS, parsed, {name: entry.shape for name, entry in entries.items()}))
    return lora_of(adapter, experts_per_token), size


def _check_dtypes(entries: Mapping[str, TensorEntry]) -> None:
    for name, entry in entries.items():
        if entry.dtype not in _FLOATS:
            raise invalid(f"{ADAPTER_WEIGHTS}: {name}: dtype", entry.dtype, f"one of {', '.join(_FLOATS)}")
