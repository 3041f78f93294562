"""Whether the service is up, and its numbers. Nothing here needs a key, and nothing here tells about users."""

from __future__ import annotations

from fastapi import APIRouter, Response

from tinsmith.server.http.routes.common import ServiceDep, reply
from tinsmith.types.names.http_names import API_PREFIX

router = APIRouter()


@router.get("/healthz")
@router.get(API_PREFIX + "/healthz")
async def healthz(service: ServiceDep) -> Response:
    if service.core.catalog.healthy:
        # Still 200: it answers, and what is running goes on. Whoever watches it reads the status.
        short = service.core.disk.shortage()
        return reply({"status": "ok"} if short is None else {"status": "degraded", "detail": short})
    missing = sorted(set(service.core.catalog.folders) - service.core.catalog.loaded)
    return reply({"status": "starting", "detail": f"models: not loaded yet: {', '.join(missing) or 'any'}"}, 503)


@router.get("/metrics")
async def metrics(service: ServiceDep) -> Response:
    return Response(service.metrics_page(), media_type="text/plain; version=0.0.4; charset=utf-8")
