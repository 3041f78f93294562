"""`serve` says so where other machines can reach it."""

from __future__ import annotations

import pytest

from tinsmith.cli.serve import _in_the_open


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1"])
def test_this_machine_alone_is_fine(address: str) -> None:
    assert _in_the_open(address) is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "fe80::1%eth0", "2001:db8::1"])
def test_an_address_that_others_reach_is_warned_of(address: str) -> None:
    warning = _in_the_open(address)
    assert warning is not None
    assert warning.startswith(f"warning: {address} can be reached from other machines")
    assert "TLS" in warning
