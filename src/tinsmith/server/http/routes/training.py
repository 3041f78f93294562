"""Training: models, passes, steps, saves and loads. All answer with a future at once."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.handlers.intake.bodies import read_object
from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, get_batch, promise, service_of
from tinsmith.server.http.routes.quick import quick
from tinsmith.types.errors import invalid
from tinsmith.types.names.http_names import API_PREFIX, PROTOBUF

router = APIRouter(prefix=API_PREFIX)


@router.post("/create_model")
async def create_model(service: ServiceDep, owner: Owner, body: Body) -> Response:
    return promise(await service.creation.create_model(owner, body))


@router.post("/load_weights")
async def load_weights(service: ServiceDep, owner: Owner, body: Body) -> Response:
    # A key of another owner, which opens that owner's checkpoints for this one request.
    token = (await read_object(body)).get("weights_access_token")
    token_owner = await service.keys.owner_of(token) if isinstance(token, str) else None
    return promise(await service.creation.load_weights(owner, body, token_owner))


async def forward_backward(request: Request, owner: str, body: bytes) -> Response:
    content_type = request.headers.get("content-type", "").split(";")[0].strip()
    if content_type != PROTOBUF:
        raise invalid("Content-Type", content_type, PROTOBUF, status=415)
    return promise(await service_of(request).training.forward_backward(owner, body))


async def optim_step(request: Request, owner: str, body: bytes) -> Response:
    return promise(await service_of(request).training.optim_step(owner, body))


async def save_weights(request: Request, owner: str, body: bytes) -> Response:
    return promise(await service_of(request).saving.save_weights(owner, body))


async def save_weights_for_sampler(request: Request, owner: str, body: bytes) -> Response:
    return promise(await service_of(request).saving.save_weights_for_sampler(owner, body))


quick_routes = [
    quick("/forward_backward", forward_backward, body=get_batch),
    quick("/optim_step", optim_step),
    quick("/save_weights", save_weights),
    quick("/save_weights_for_sampler", save_weights_for_sampler),
]


@router.post("/save_weights_external")
async def save_weights_external(service: ServiceDep, owner: Owner, body: Body) -> Response:
    return promise(await service.saving.save_weights_external(owner, body))
