"""Memory that was freed goes back to the system, where the C library can do that."""

from __future__ import annotations

from collections.abc import Callable

from tinsmith.engine.free_memory import find_trim

# A trim walks the whole heap, some milliseconds per GiB; what is less than this may stay.
_WORTH_A_TRIM = 32 * 2**20


class Heap:
    """Counts what was freed and trims the heap once that is worth it.

    glibc keeps blocks that were freed, however many, for allocations to come: an engine whose sessions have all ended
    would take as much memory as with all of them.

    Args:
        trim: gives freed pages back.
    """

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        self._trim = trim or find_trim()
        self._freed = 0

    def freed(self, size: int) -> None:
        """Note that so many bytes were freed; from any thread, a count that is a little off does no harm."""
        self._freed += size

    def tidy(self) -> None:
        """Give back what was freed, if it is much."""
        if self._freed >= _WORTH_A_TRIM:
            self._freed = 0
            self._trim()
