"""When something that happens every so many steps is due."""

from __future__ import annotations


def due(step: int, every: int) -> bool:
    """Return whether what happens every `every` steps is due at `step`; 0 is never.

    An evaluation before batch `step` is due at 0, too; a save after `step` steps is asked about from 1 on.
    """
    # 0 is checked first: nothing is divided by it.
    return every > 0 and step % every == 0
