"""Paths that clients ask all the time: Starlette's routes, without FastAPI's dependencies.

What FastAPI does to find out what an endpoint depends on takes half a millisecond of every request, ten times as long
as all else between the socket and the endpoint. Each of these endpoints needs the same three things, so they are handed
to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from fastapi import Request, Response
from starlette.routing import Route

from tinsmith.server.http.routes.common import get_body, get_owner, one_more_of, service_of
from tinsmith.types.names.http_names import API_PREFIX

Endpoint = Callable[[Request, str, bytes], Awaitable[Response]]


def quick(
    path: str,
    endpoint: Endpoint,
    *,
    body: Callable[[Request], Awaitable[bytes]] = get_body,
    counted: bool = True,
) -> Route:
    """Return the route of a POST to a path.

    Args:
        path: behind the API's prefix.
        endpoint: gets the request, whose it is, and its body, decompressed.
        body: reads it.
        counted: whether it counts as an open request of its key.
    """

    async def answer(request: Request) -> Response:
        # As FastAPI notes it of its own routes; what is counted and logged of a request names it.
        request.scope["route"] = route
        owner = await get_owner(request)
        # The one user of a service in its own process has no connections to run out of.
        unlimited = not counted or service_of(request).owner is not None
        with nullcontext() if unlimited else one_more_of(request, owner):
            return await endpoint(request, owner, await body(request))

    route = Route(API_PREFIX + path, answer, methods=["POST"])
    return route
