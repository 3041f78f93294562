"""From `NAME=FOLDER_OR_HUB_ID` to loaded engines."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A base model to serve.

    Attributes:
        name: that clients use; it may hold slashes.
        source: folder or hub id.
    """

    name: str
    source: str

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read `NAME=FOLDER_OR_HUB_ID`; a text without `=` is name and source at once.

        Raises:
            StartupError: one of the two is missing.
        """
        name, equals, source = text.partition("=")
        spec = cls(name.strip(), source.strip() if equals else name.strip())
        if not spec.name or not spec.source:
            raise StartupError(f"--model: got {text!r}, expected NAME=FOLDER_OR_HUB_ID")
        return spec


def load_engine(spec: ModelSpec, settings: Settings) -> HostedEngine:
    """Load one base model.

    Raises:
        UserError: there is no model at the source, or it cannot be served.
    """
    # Here, so that torch is imported only by the process in which engines live.
    from tinsmith.engine.engine import Engine

    started = time.monotonic()
    engine = Engine.load(spec.name, spec.source, settings.device, settings.dtype, settings)
    logger.info("loaded %s from %s in %.1f s", spec.name, spec.source, time.monotonic() - started)
    return engine


def load_engines(specs: Iterable[ModelSpec], settings: Settings) -> dict[str, HostedEngine]:
    """Load all base models.

    Raises:
        StartupError: naming the model that does not load, and why.
    """
    engines: dict[str, HostedEngine] = {}
    for spec in specs:
        if spec.name in engines:
            raise StartupError(f"model {spec.name}: got it twice, expected one source for each name")
        try:
            engines[spec.name] = load_engine(spec, settings)
        except UserError as error:
            raise StartupError(f"model {spec.name} cannot be served from {spec.source}: {error.message}") from error
        except Exception as error:
            raise StartupError(
                f"model {spec.name} could not be loaded from {spec.source}: {type(error).__name__}: {error}"
            ) from error
    return engines
