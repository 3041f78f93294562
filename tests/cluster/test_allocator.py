"""Engines are started with huge pages, unless somebody has chosen otherwise."""

from __future__ import annotations

import pytest

from tinsmith.cluster.allocator import huge_pages
from tinsmith.cluster.child_environment import engine_environment

OURS = "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, OURS),
        ("", OURS),
        ("glibc.malloc.arena_max=2", f"glibc.malloc.arena_max=2:{OURS}"),
        # What somebody has chosen stays, off as well as on.
        ("glibc.malloc.hugetlb=0", None),
        ("glibc.malloc.arena_max=2:glibc.malloc.hugetlb=2", None),
    ],
)
def test_huge_pages_are_asked_for_beside_what_is_set(before: str | None, after: str | None) -> None:
    environment = {} if before is None else {"GLIBC_TUNABLES": before}
    assert huge_pages(environment) == ({} if after is None else {"GLIBC_TUNABLES": after})


def test_an_engine_is_told_how_to_wait_and_where_to_allocate_and_no_secret() -> None:
    found = engine_environment({"HOME": "/root", "HF_TOKEN": "secret"})
    assert found["HOME"] == "/root"
    assert found["GLIBC_TUNABLES"] == OURS
    assert found["GOMP_SPINCOUNT"]
    assert "HF_TOKEN" not in found
