"""How the threads of a matrix product wait for each other: they sleep, so that whoever else wants the core has it.

By default a thread that has done its part of a product spins for some milliseconds, in the hope that the next product
comes soon. Beside any other busy process the two spin for each other: a thread waits, at full load, for one that the
system has taken off its core. A decode step has hundreds of products, and took ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

# Read once, when the OpenMP library loads with torch. The first is of the OpenMP standard, section 6.7, which GNU's and
# LLVM's libraries both follow; whoever has set one of these knows what they want.
_POLICY = "OMP_WAIT_POLICY"
_CHOICES = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine's process needs in its environment beside what is there."""
    return {} if any(name in environment for name in _CHOICES) else {_POLICY: "PASSIVE"}


@contextmanager
def torch_waits_asleep(environment: MutableMapping[str, str]) -> Iterator[None]:
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
