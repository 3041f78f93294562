"""The paths of the API, one module per resource.

`common` is what they share: who asks, the body, the answer with a future. `all_routers` is what `app` mounts.
"""

from fastapi import APIRouter

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
    """Return the routers of all resources, those of every step first: they are tried in this order."""
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
