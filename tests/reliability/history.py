"""A history as a list of steps: written down as it happens, played again, and made short where it fails."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hypothesis.stateful import rule

Step = tuple[str, dict[str, Any]]


class Machine(Protocol):
    """A state machine that keeps its history."""

    history: list[Step]

    def teardown(self) -> None: ...
    def the_engine_holds_only_what_the_programs_say(self) -> None: ...


def recorded(function: Callable[..., None]) -> Callable[..., None]:
    """Write each call down before it is carried out."""

    @functools.wraps(function)
    def call(self: Machine, **arguments: Any) -> None:
        self.history.append((function.__name__, arguments))
        function(self, **arguments)

    return call


def step(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule of the machine whose calls are written down."""
    return lambda function: rule(**arguments)(recorded(function))


def play(make: Callable[[], Machine], history: Sequence[Step]) -> Exception | None:
    """Carry out a history; return what did not hold."""
    machine = make()
    try:
        try:
            for name, arguments in history:
                getattr(machine, name)(**arguments)
                machine.the_engine_holds_only_what_the_programs_say()
        finally:
            machine.teardown()
    except Exception as error:
        return error
    return None


def shorten(make: Callable[[], Machine], history: Sequence[Step], seconds: float) -> list[Step]:
    """Leave out steps, many at once and then fewer, while the history fails at the same place; for so long at most."""
    until = time.monotonic() + seconds
    if (place := _place(play(make, history))) is None:
        return list(history)
    left, size = list(history), len(history) // 2
    while size:
        start, before = 1, len(left)  # without its beginning there is no history
        while start < len(left) and time.monotonic() < until:
            fewer = left[:start] + left[start + size :]
            if _place(play(make, fewer)) == place:
                left = fewer
            else:
                start += size
        size = size if size == 1 and len(left) < before and time.monotonic() < until else size // 2
    return left


def _place(error: Exception | None) -> tuple[str, str | None] | None:
    """Return what kind of error it is and which line of these tests noticed it."""
    if error is None:
        return None
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "reliability" in frame.filename]
    return type(error).__name__, lines[-1].line if lines else None


def told(history: Sequence[Step]) -> str:
    """Return a history as it can be read."""
    return "\n".join(f"  {name}({', '.join(f'{k}={v!r}' for k, v in how.items())})" for name, how in history)
