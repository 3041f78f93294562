"""The paths of the API, one module per resource.

`common` is what they share: who asks, the body, the answer with a future. `quick` is how the paths of every step are
served. `all_routers` and `quick_routes` are what `app` mounts.
"""

from fastapi import APIRouter
from starlette.routing import Route

from tinsmith.server.http.routes import (
    checkpoints,
    client_config,
    futures,
    health,
    models,
    sampling,
    sessions,
    training,
    training_runs,
    unsupported,
)


def all_routers() -> list[APIRouter]:
    """Return the routers of all resources."""
    modules = (
        futures,
        sampling,
        training,
        sessions,
        client_config,
        models,
        training_runs,
        checkpoints,
        unsupported,
        health,
    )
    return [module.router for module in modules]


def quick_routes() -> list[Route]:
    """Return the routes of what every step asks for, which are tried before all others."""
    return [*futures.quick_routes, *training.quick_routes, *sampling.quick_routes, *sessions.quick_routes]
