"""Training runs."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response

from tinsmith.server.http.routes.common import Owner, ServiceDep, page_of, reply
from tinsmith.server.store.paging import Paging
from tinsmith.types.names.http_names import API_PREFIX

router = APIRouter(prefix=API_PREFIX)

Scope = Literal["owned", "accessible"]


@router.get("/training_runs")
async def list_runs(
    service: ServiceDep,
    owner: Owner,
    page: Annotated[Paging, Depends(page_of(20))],
    access_scope: Scope = "owned",
    project_id: str | None = None,
) -> Response:
    return reply(await service.listings.runs(owner, page, access_scope == "accessible", project_id))


@router.get("/training_runs/{run_id}")
async def get_run(run_id: str, service: ServiceDep, owner: Owner, access_scope: Scope = "owned") -> Response:
    return reply(await service.listings.run(run_id, owner, access_scope == "accessible"))
