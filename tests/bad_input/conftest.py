"""A raw client of the live server, one session per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bad_input.door import Door
from tests.support.live_server import LiveServer


@pytest.fixture(scope="module")
def door(live_server: LiveServer) -> Iterator[Door]:
    """A session with a model, a sampler and checkpoints."""
    door = Door(live_server)
    yield door
    door.close()
