"""How many examples Hypothesis tries: all that a test asks for in `make acceptance`, a part of them in `make test`.

Examples are the same in every run (the profiles derandomize), so what many of them find is found once, when the test is
written; afterwards a part shows whether the code has changed, and the slow run sees to the rest.
"""

from __future__ import annotations

from hypothesis import settings

QUICK, THOROUGH = "quick", "thorough"
_PART = 4
_FEWEST = 3
_MOST_UNLESS_TOLD = 50


def register() -> None:
    """Register both profiles and load the quick one; `--hypothesis-profile=thorough` loads the other."""
    common = settings(derandomize=True, deadline=None)
    settings.register_profile(THOROUGH, common, max_examples=_MOST_UNLESS_TOLD)
    settings.register_profile(QUICK, common, max_examples=_part_of(_MOST_UNLESS_TOLD))
    settings.load_profile(QUICK)


def examples(most: int) -> settings:
    """Return settings with `most` examples in the thorough profile, a quarter in the quick one, but three at least."""
    thorough = settings.get_current_profile_name() == THOROUGH
    return settings(max_examples=most if thorough else min(most, _part_of(most)))


def _part_of(most: int) -> int:
    return max(_FEWEST, most // _PART)
