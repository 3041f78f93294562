"""Warnings that are said once per process and cause, not once per step."""

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
    if cause not in _said:
        _said.add(cause)
        logger.warning(message)
