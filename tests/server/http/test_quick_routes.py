"""What a training step asks for is served without FastAPI's dependencies, which take longer than the rest of it."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match, Route

from tests.server.conftest import Running
from tinsmith.types.names.http_names import API_PREFIX

pytestmark = pytest.mark.anyio

STEP = [
    "forward_backward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "create_sampling_session",
    "asample",
    "retrieve_future",
    "session_heartbeat",
]


@pytest.mark.parametrize("path", STEP)
async def test_a_step_needs_no_dependencies(running: Running, path: str) -> None:
    scope = {"type": "http", "method": "POST", "path": f"{API_PREFIX}/{path}", "root_path": ""}
    routes = [route for route in running.app.routes if isinstance(route, Route)]
    first = next(route for route in routes if route.matches(scope)[0] is Match.FULL)
    assert not isinstance(first, APIRoute)
