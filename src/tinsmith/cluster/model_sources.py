"""From `--model NAME=FOLDER_OR_HUB_ID` to folders with checkpoints."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from tinsmith.hub import unreachable
from tinsmith.models import NAMES as SHIPPED
from tinsmith.models import path as shipped_path
from tinsmith.types.errors import StartupError

log = logging.getLogger("tinsmith.server")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What a model needs; other weight formats of a repository stay where they are.
_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def resolve_models(specs: Sequence[str]) -> dict[str, Path]:
    """Return the folder of every model that is named.

    Args:
        specs: `NAME=FOLDER`, `NAME=HUB_ID`, or a folder, hub id or shipped model alone, which is its own name.

    Raises:
        StartupError: a folder is no model, a hub id cannot be had, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for spec in specs:
        name, _, source = spec.partition("=")
        if not name:
            raise StartupError(f"--model: got {spec!r}, expected NAME=FOLDER_OR_HUB_ID")
        if name in found:
            raise StartupError(f"--model: got the name {name!r} twice, expected every name once")
        found[name] = resolve(source or name, f"model {name}")
    return found


def resolve(source: str, field: str = "model") -> Path:
    """Return the folder of a shipped model, a folder's path, or a hub id (fetched if need be).

    Args:
        source: which of them.
        field: what messages call it.

    Raises:
        StartupError: it is none of them, or holds no model.
    """
    folder = Path(source).expanduser()
    # In this order: a folder that happens to have a shipped model's name must not change what the name means.
    if source in SHIPPED:
        folder = shipped_path(source)
    elif not folder.is_dir():
        folder = _fetch(source, field)
    _check(folder, source, field)
    return folder.resolve()


def _check(folder: Path, source: str, field: str) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise StartupError(f"{field}: got {source!r} without a readable config.json, expected a checkpoint") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise StartupError(f"{field}: got {source!r} whose config.json names no model_type, expected a checkpoint")


def _fetch(source: str, field: str) -> Path:
    if not _HUB_ID.fullmatch(source):
        raise StartupError(f"{field}: got {source!r}, which is no folder, expected a checkpoint's folder or a hub id")
    # Here, because a service of local folders should start without it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    log.info("looking for %s on the hub", source)
    # Asked first: offline the library would try every file and wait for each; what is in its cache serves as well.
    offline = unreachable()
    try:
        return Path(snapshot_download(source, allow_patterns=_FILES, local_files_only=offline is not None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = f"it {offline}" if offline is not None else str(error).strip().splitlines()[0]
        raise StartupError(
            f"{field}: got {source!r}, which is no folder, and the hub does not give it: {reason}"
        ) from error
