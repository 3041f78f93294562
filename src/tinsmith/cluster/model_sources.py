"""From `NAME=FOLDER_OR_HUB_ID` to folders with checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith.hub import unreachable
from tinsmith.model_files.folder import check_companions, read_config
from tinsmith.models import NAMES as SHIPPED
from tinsmith.models import path as shipped_path
from tinsmith.types.errors import StartupError, UserError

log = logging.getLogger("tinsmith.server")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What a model needs; other weight formats of a repository stay where they are.
_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A base model to serve.

    Attributes:
        name: that clients use; it may hold slashes.
        source: folder, hub id or shipped model.
    """

    name: str
    source: str

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read `NAME=FOLDER_OR_HUB_ID`; a text without `=` is name and source at once.

        Raises:
            StartupError: one of the two is missing.
        """
        # At the first `=`: a folder may hold another one, a name may not.
        name, equals, source = text.partition("=")
        spec = cls(name.strip(), source.strip() if equals else name.strip())
        if not spec.name or not spec.source:
            raise StartupError(f"--model: got {text!r}, expected NAME=FOLDER_OR_HUB_ID")
        return spec


def by_name(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    """Return models by their names, in the order in which they are given.

    Raises:
        StartupError: a name comes twice.
    """
    found: dict[str, ModelSpec] = {}
    for spec in specs:
        if spec.name in found:
            raise StartupError(f"model {spec.name}: got it twice, expected one source for each name")
        found[spec.name] = spec
    return found


def resolve_models(texts: Sequence[str]) -> dict[str, Path]:
    """Return the folder of every model that is named.

    Args:
        texts: `NAME=FOLDER`, `NAME=HUB_ID`, or a folder, hub id or shipped model alone, which is its own name.

    Raises:
        StartupError: a folder is no model, a hub id cannot be had, a name is missing or comes twice.
    """
    specs = by_name(ModelSpec.parse(text) for text in texts)
    return {name: resolve(spec.source, f"model {name}") for name, spec in specs.items()}


def resolve(source: str, field: str = "model") -> Path:
    """Return the folder of a shipped model, a folder's path, or a hub id (fetched if need be).

    Args:
        source: which of them.
        field: what messages call it.

    Raises:
        StartupError: it is none of them, or a file of it is at fault; the message names file and field.
    """
    folder = Path(source).expanduser()
    # In this order: a folder that happens to have a shipped model's name must not change what the name means.
    if source in SHIPPED:
        folder = shipped_path(source)
    elif not folder.is_dir():
        folder = _fetch(source, field)
    _check(folder, field)
    return folder.resolve()


def _check(folder: Path, field: str) -> None:
    # What can be told without torch; the engine, which looks at the rest, takes seconds to start.
    try:
        read_config(field, folder)
        check_companions(field, folder)
    except UserError as error:
        raise StartupError(error.message) from error


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
