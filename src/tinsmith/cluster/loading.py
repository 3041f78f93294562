"""From named models to loaded engines."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable

from tinsmith.cluster.model_sources import ModelSpec, by_name
from tinsmith.cluster.openmp import torch_waits_briefly
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError, UserError

logger = logging.getLogger(__name__)


def load_engine(spec: ModelSpec, settings: Settings) -> HostedEngine:
    """Load one base model.

    Raises:
        UserError: there is no model at the source, or it cannot be served; the message names the model, or the
            variable that asks for a device or dtype which this machine has not.
        StartupError: it could not be loaded for any other reason, a device without memory say.
    """
    # Here, so that torch is imported only by the process in which engines live.
    with torch_waits_briefly(os.environ):
        from tinsmith.engine.engine import Engine

    started = time.monotonic()
    try:
        engine = Engine.load(spec.name, spec.source, settings.device, settings.dtype, settings)
    except UserError as error:
        field, _, rest = error.message.partition(":")
        if field in ("device", "dtype"):  # no fault of the model; only the machine knows what it has
            raise UserError(f"{Settings.variable(field)}:{rest}") from error
        raise
    except Exception as error:
        # No fault of the folder, which is named by now: what the engine makes of a sound one.
        logger.exception("model %s could not be loaded", spec.name)
        raise StartupError(
            f"model {spec.name} could not be loaded from {spec.source}: {type(error).__name__}: {error}"
        ) from error
    logger.info("loaded %s from %s in %.1f s", spec.name, spec.source, time.monotonic() - started)
    return engine


def load_engines(specs: Iterable[ModelSpec], settings: Settings) -> dict[str, HostedEngine]:
    """Load all base models.

    Raises:
        StartupError: a model does not load, or its name comes twice.
    """
    engines: dict[str, HostedEngine] = {}
    for spec in by_name(specs).values():
        try:
            engines[spec.name] = load_engine(spec, settings)
        except UserError as error:
            raise StartupError(error.message) from error
    return engines
