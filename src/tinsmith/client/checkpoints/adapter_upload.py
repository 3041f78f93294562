"""Bringing a PEFT folder to a service."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.client.checkpoints.download import checkpoint_route
from tinsmith.client.checkpoints.file_transfer import upload_file
from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.exchange import parse
from tinsmith.client.transport.polling import Poller
from tinsmith.model_files.reading import check_file, read_object
from tinsmith.types.errors import invalid
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.requests import ImportCheckpointRequest
from tinsmith.types.responses import ImportCheckpointResponse, WireResponse


@dataclass(frozen=True, slots=True)
class ImportedCheckpoint:
    """The addresses of an adapter that was brought to a service.

    Attributes:
        state_path: to train on from, as after `save_state`; its optimizer has taken no step.
        sampler_path: to sample from.
    """

    state_path: str
    sampler_path: str


@dataclass(frozen=True, slots=True)
class LocalAdapter:
    """A PEFT folder on this machine.

    Attributes:
        config: its `adapter_config.json`.
        weights: its `adapter_model.safetensors`.
    """

    config: dict[str, Any]
    weights: Path

    @classmethod
    def open(cls, folder: Path) -> LocalAdapter:
        """Look into a folder.

        Raises:
            UserError: it is no PEFT folder with safetensors.
        """
        config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
        if not config.is_file() or not weights.is_file():
            raise invalid("folder", str(folder), f"a PEFT folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
        check_file("adapter", weights, "safetensors")
        return cls(read_object("adapter", config), weights)


class _Saved(WireResponse):
    """Answer to a save."""

    path: str


async def import_adapter(
    connection: Connection, adapter: LocalAdapter, request: ImportCheckpointRequest
) -> ImportedCheckpoint:
    """Send an adapter and wait until the service has saved it under both kinds, or under none.

    Raises:
        APIStatusError: the service refused it.
        RequestFailedError: it does not fit the base model, or could not be saved.
    """
    # One line, because the service reads the request up to the first line break and the file behind it.
    line = json.dumps(request.wire(), separators=(",", ":")).encode() + b"\n"
    answer = parse(ImportCheckpointResponse, await upload_file(connection, "import_checkpoint", line, adapter.weights))
    poller = Poller(connection)
    load, *saves = answer.request_ids
    # The load first: where it fails, its message says what does not fit, and the saves fail only because of it.
    await poller.json(load, WireResponse)
    saved = await asyncio.gather(*(poller.json(save, _Saved) for save in saves), return_exceptions=True)
    failed = [outcome for outcome in saved if isinstance(outcome, BaseException)]
    paths = [outcome.path for outcome in saved if not isinstance(outcome, BaseException)]
    if failed:
        # One of two saves is no import: take it away again.
        for path in paths:
            await connection.send("DELETE", checkpoint_route(CheckpointPath.parse(path)))
        raise failed[0]
    state_path, sampler_path = paths
    return ImportedCheckpoint(state_path, sampler_path)
