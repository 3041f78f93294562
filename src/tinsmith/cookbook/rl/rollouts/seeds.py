"""The seeds of rollouts: one for each group, turn and episode, all of the run's seed and the group's place."""

from __future__ import annotations

from hashlib import blake2b


def derived_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that follows from `parts` alone.

    A hash, and not a sum: sums of places and seeds meet (step 1, group 0 would sample as step 0, group 1 does).
    """
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # the service takes signed 64-bit numbers
