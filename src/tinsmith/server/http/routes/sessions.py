"""Sessions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from tinsmith.server.handlers.intake.bodies import parse
from tinsmith.server.http.routes.common import AnyOwner, Body, Owner, ServiceDep, page_of, reply, service_of
from tinsmith.server.http.routes.quick import quick
from tinsmith.server.store.paging import Paging
from tinsmith.types.names.http_names import API_PREFIX
from tinsmith.types.requests import CreateSessionRequest, FinishSessionRequest, SessionHeartbeatRequest
from tinsmith.types.responses import CreateSessionResponse, SessionHeartbeatResponse, SessionsResponse

router = APIRouter(prefix=API_PREFIX)


@router.post("/create_session")
async def create_session(service: ServiceDep, owner: Owner, body: Body) -> Response:
    session_id = await service.sessions.create(owner, await parse(CreateSessionRequest, body))
    return reply(CreateSessionResponse(session_id=session_id))


async def session_heartbeat(request: Request, owner: str, body: bytes) -> Response:
    session_id = (await parse(SessionHeartbeatRequest, body)).session_id
    await service_of(request).sessions.heartbeat(owner, session_id)
    return reply(SessionHeartbeatResponse())


# Not counted: it keeps a session alive and takes no time, and a key that is at its limit shall not lose its runs by it.
quick_routes = [quick("/session_heartbeat", session_heartbeat, counted=False)]


@router.post("/sessions/{session_id}/finish")
async def finish_session(session_id: str, service: ServiceDep, owner: AnyOwner, body: Body) -> Response:
    await service.sessions.finish(owner, session_id, await parse(FinishSessionRequest, body))
    return Response(status_code=204)


@router.get("/sessions")
async def list_sessions(service: ServiceDep, owner: Owner, page: Annotated[Paging, Depends(page_of(20))]) -> Response:
    return reply(SessionsResponse(sessions=await service.listings.sessions(owner, page)))


@router.get("/sessions/{session_id}")
async def get_session(session_id: str, service: ServiceDep, owner: Owner) -> Response:
    return reply(await service.listings.session(session_id, owner))
