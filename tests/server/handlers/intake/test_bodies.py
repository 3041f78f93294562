"""Bodies of requests: where they are checked."""

from __future__ import annotations

import threading

import pytest

from tinsmith.server.handlers.intake.bodies import INLINE_CHECK_BYTES, check_body

pytestmark = pytest.mark.anyio


async def test_only_a_large_body_is_checked_on_another_thread() -> None:
    here = threading.get_ident()
    for size, inline in ((0, True), (INLINE_CHECK_BYTES, True), (INLINE_CHECK_BYTES + 1, False)):
        assert (await check_body(bytes(size), threading.get_ident) == here) is inline


async def test_a_check_gets_its_arguments_and_its_fault_reaches_the_caller_on_either_thread() -> None:
    for size in (0, INLINE_CHECK_BYTES + 1):
        assert await check_body(bytes(size), divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await check_body(bytes(size), divmod, 7, 0)
