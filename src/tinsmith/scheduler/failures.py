"""Whose fault an error is, and whether the engine can go on after it."""

from __future__ import annotations

import logging

from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.types.errors import Damaged, RequestErrorCategory, UserError

logger = logging.getLogger(__name__)


class EngineBroken(RuntimeError):
    """The device is in a state in which no further work can be done; the host has to be started anew."""


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost: after most CUDA errors every later call of the process fails as well.

    A library that refuses its arguments says "CUDA error" too, but does no harm to what follows.
    """
    if is_out_of_memory(error):
        return False
    text = str(error)
    # Of cuBLAS' statuses only EXECUTION_FAILED says that a kernel crashed.
    refused = "CUBLAS_STATUS_" in text and "CUBLAS_STATUS_EXECUTION_FAILED" not in text
    return type(error).__name__ == "AcceleratorError" or ("CUDA error" in text and not refused)


def raise_if_fatal(error: Exception) -> None:
    """Turn an error after which nothing works into `EngineBroken`."""
    if is_fatal(error):
        raise EngineBroken(f"the device failed: {error}") from error


def describe(error: BaseException, doing: str) -> tuple[str, RequestErrorCategory]:
    """Return what the client is told, and log what it is not told.

    Args:
        doing: the operation, for the log and for messages of the service's own faults.
    """
    if isinstance(error, UserError):
        return error.message, RequestErrorCategory.USER
    if isinstance(error, Damaged):
        logger.error("%s: %s", doing, error)
        return str(error), RequestErrorCategory.SERVER
    logger.error("%s failed", doing, exc_info=error)
    if is_out_of_memory(error):
        return f"{doing}: out of memory ({error})", RequestErrorCategory.SERVER
    return f"{doing}: {type(error).__name__}: {error}", RequestErrorCategory.SERVER
