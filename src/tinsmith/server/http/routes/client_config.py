"""How a client should behave, and telemetry, which is taken and dropped."""

from __future__ import annotations

from fastapi import APIRouter, Response

from tinsmith.server.http.routes.common import Body, Owner, reply
from tinsmith.server.store.catalog import losses
from tinsmith.types.names.http_names import API_PREFIX
from tinsmith.types.responses import ClientConfigResponse, DynamicConfigResponse, TelemetryResponse

router = APIRouter(prefix=API_PREFIX)


@router.post("/client/config")
async def client_config(owner: Owner, body: Body) -> Response:
    return reply(ClientConfigResponse(losses=losses(), close_sampler=True))


@router.post("/client/dynamic_config")
async def dynamic_config(owner: Owner, body: Body) -> Response:
    return reply(DynamicConfigResponse(sample_cancel_enabled=True))


@router.post("/telemetry")
async def telemetry(owner: Owner, body: Body) -> Response:
    return reply(TelemetryResponse())
