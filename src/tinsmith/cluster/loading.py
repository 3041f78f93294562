"""Base models by name, and the engines that serve them."""

from __future__ import annotations

from collections.abc import Mapping

from tinsmith.engine.engine import Engine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError, UserError


def load_engine(name: str, source: str, settings: Settings) -> Engine:
    """Load one base model.

    Args:
        name: that clients use.
        source: a folder or a hub id.
        settings: device, dtype and limits.

    Raises:
        StartupError: there is no such model, or it cannot be served; the message says why.
    """
    try:
        return Engine.load(name, source, settings.device, settings.dtype, settings)
    except UserError as error:
        raise StartupError(error.message) from error


def load_engines(models: Mapping[str, str], settings: Settings) -> dict[str, Engine]:
    """Load base models, given as name to folder or hub id; see `load_engine`."""
    return {name: load_engine(name, source, settings) for name, source in models.items()}
