"""Sampling sessions and samples."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, promise, reply, service_of
from tinsmith.server.http.routes.quick import quick
from tinsmith.types.names.http_names import API_PREFIX
from tinsmith.types.responses import CreateSamplingSessionResponse

router = APIRouter(prefix=API_PREFIX)


async def create_sampling_session(request: Request, owner: str, body: bytes) -> Response:
    sampler_id = await service_of(request).sampling.create_session(owner, body)
    return reply(CreateSamplingSessionResponse(sampling_session_id=sampler_id))


@router.get("/samplers/{sampler_id}")
async def get_sampler(sampler_id: str, service: ServiceDep, owner: Owner) -> Response:
    return reply(await service.listings.sampler(sampler_id, owner))


@router.post("/samplers/{sampler_id}/close")
async def close_sampler(sampler_id: str, service: ServiceDep, owner: Owner, body: Body) -> Response:
    service.closing.close(owner, sampler_id)
    return Response(status_code=204)


async def asample(request: Request, owner: str, body: bytes) -> Response:
    return promise(await service_of(request).sampling.sample(owner, body))


quick_routes = [
    quick("/asample", asample),
    quick("/create_sampling_session", create_sampling_session),
]
