"""Warnings and remarks that are said once per process and cause, not once per step."""

from __future__ import annotations

import logging

logger = logging.getLogger("tinsmith.cookbook")
# Of the process and not of a run: a data set that is opened by two runs is still one data set.
_said: set[str] = set()


def warn_once(cause: str, message: str) -> None:
    """Log a warning the first time that its cause appears.

    Args:
        cause: what the warning is about; the same cause is not said again.
        message: the number, the threshold and what to do.
    """
    _log_once(logging.WARNING, cause, message)


def tell_once(cause: str, message: str) -> None:
    """Log what somebody should know, and need do nothing about, the first time that its cause appears.

    Args:
        cause: what it is about; the same cause is not said again.
        message: what was done, and how to have it otherwise.
    """
    _log_once(logging.INFO, cause, message)


def _log_once(level: int, cause: str, message: str) -> None:
    if cause not in _said:
        _said.add(cause)
        logger.log(level, message)
