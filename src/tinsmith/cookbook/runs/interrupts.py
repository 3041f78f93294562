"""Ctrl-C and SIGTERM: a step that has begun is finished, the steps that are done are saved, and then the program ends.

The weights are whole only between two steps. While a step is submitted and logged a signal is noted, and raised as
`KeyboardInterrupt` at its end; where nothing is under way (loading, evaluating, waiting for rollouts) it is raised at
once. A second signal does not wait: whoever presses Ctrl-C twice means it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """Of the process: signals are delivered to all of it."""

    def __init__(self) -> None:
        self.watched = False
        self.held = False
        self.asked = 0
        # Whether a step of training has begun: an error before that is one of the start.
        self.stepped = False


_state = _State()


@contextmanager
def watched_signals() -> Iterator[None]:
    """Take both signals for as long as a recipe runs; outside the main thread, which alone gets them, do nothing."""
    if _state.watched or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _take) for number in _SIGNALS}
    _state.__init__()
    _state.watched = True
    try:
        yield
    finally:
        _state.watched = _state.held = False
        for number, handler in before.items():
            signal.signal(number, handler)


def _take(number: int, frame: FrameType | None) -> None:
    _state.asked += 1
    if _state.held and _state.asked == 1:
        print("\nstopping when this step is done and saved; again (Ctrl-C) stops at once", file=sys.stderr, flush=True)
        return
    raise KeyboardInterrupt


def hold() -> None:
    """Let a signal wait from now on: a step has begun."""
    _state.held = _state.stepped = True


def let_go() -> None:
    """Let signals through again."""
    _state.held = False


def asked_to_stop() -> bool:
    """Return whether a signal came that is still waiting for the end of the step."""
    return _state.asked > 0


def asked_twice() -> bool:
    """Return whether whoever asked did not want to wait."""
    return _state.asked > 1


def has_stepped() -> bool:
    """Return whether a step of training has begun since the signals are watched."""
    return _state.stepped


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals wait for the end of the block; one that came before it is not raised again."""
    before, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal through, within a step that holds them: for a wait that may be long and has changed no weights.

    Raises:
        KeyboardInterrupt: at once, where a signal came already.
    """
    if not _state.held:
        yield
        return
    _state.held = False
    try:
        if _state.asked:
            raise KeyboardInterrupt
        yield
    finally:
        _state.held = True
