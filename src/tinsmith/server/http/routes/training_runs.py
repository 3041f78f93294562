"""Training runs."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from tinsmith.server.http.routes.common import Offset, Owner, ServiceDep, reply
from tinsmith.types.http_names import API_PREFIX

router = APIRouter(prefix=API_PREFIX)

Scope = Literal["owned", "accessible"]


@router.get("/training_runs")
async def list_runs(
    service: ServiceDep,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    offset: Offset = 0,
    access_scope: Scope = "owned",
    project_id: str | None = None,
) -> Response:
    return reply(await service.listings.runs(owner, limit, offset, access_scope == "accessible", project_id))


@router.get("/training_runs/{run_id}")
async def get_run(run_id: str, service: ServiceDep, owner: Owner, access_scope: Scope = "owned") -> Response:
    return reply(await service.listings.run(run_id, owner, access_scope == "accessible"))
