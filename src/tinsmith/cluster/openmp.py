"""How the threads of an operation wait for each other: a tenth of a millisecond at full load, and then asleep.

By default a thread that has done its part of an operation spins for many milliseconds, in the hope that the next one
comes soon. Beside any other busy process the two spin for each other: a thread waits, at full load, for one that the
system has taken off its core, and a decoding step took ten times as long. A thread that goes to sleep at once has to be
woken for each of the hundreds of operations of a step, which takes longer than many of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

# Read once, when the OpenMP library loads with torch; whoever has set one of these knows what they want. The first is
# of the OpenMP standard, section 6.7, and knows nothing between the two.
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's library counts looks, of some 60 ns where a processor's pause is long, and LLVM's milliseconds.
_BRIEFLY = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine's process needs in its environment beside what is there."""
    return {} if any(name in environment for name in _CHOICES) else dict(_BRIEFLY)


@contextmanager
def torch_waits_briefly(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Import torch in the body, and it waits as `waiting` says; where it was imported before, this comes too late.

    What was added is taken away again, so that programs which this process starts later do as they would without us.
    """
    added = waiting(environment)
    environment.update(added)
    try:
        yield
    finally:
        for name in added:
            environment.pop(name, None)
