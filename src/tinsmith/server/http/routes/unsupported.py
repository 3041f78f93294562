"""What the protocol knows and this service does not serve: refused by name, so that nobody waits for it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.http.error_answers import answer
from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, promise, reply, token_of
from tinsmith.server.state.records import Record
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import UserError
from tinsmith.types.names.http_names import API_PREFIX

router = APIRouter(prefix=API_PREFIX)

_UNSUPPORTED = [
    ("POST", "/auth/token"),
    ("DELETE", "/auth/apikey/me"),
    ("POST", "/join_sampling_session"),
    ("POST", "/retrieve_futures"),
    ("POST", "/copy_weights"),
    ("POST", "/sessions/search"),
    ("PUT", "/sessions/{session_id}/project"),
    ("GET", "/sessions/{session_id}/trace_export"),
    ("GET", "/training_runs/{run_id}/checkpoints/external_weights/{name}/external_weights_urls"),
    ("GET", "/audit"),
    ("GET", "/billing/usage/events"),
    ("GET", "/billing/usage/checkpoints/current"),
]


async def refuse(request: Request, owner: Owner) -> Response:
    """Say that a path is known but not served."""
    return answer(400, f"{request.method} {request.url.path}: not supported by this service")


for _method, _path in _UNSUPPORTED:
    router.add_api_route(_path, refuse, methods=[_method])


@router.post("/create_custom_loss")
async def create_custom_loss(service: ServiceDep, owner: Owner, body: Body) -> Response:
    # As a failed future: clients expect one here and show its message to their user.
    reason = "create_custom_loss: not supported by this service; forward_backward_custom computes any loss client-side"
    return promise(await service.intake.refuse(Record(OpKind.SKIP, owner), reason))


@router.get("/auth/apikey/me")
async def own_key(request: Request, service: ServiceDep, owner: Owner) -> Response:
    token = token_of(request)
    key = await service.keys.describe(token) if token is not None else None
    if key is None:
        raise UserError("X-API-Key: got nothing, expected an API key (tml-...)", 404)
    details = {"org_details": {"name": "tinsmith"}, "user_details": {"email": key.owner}}
    return reply({"key_id": key.id, "name": key.name, "note": "", "details": details})
