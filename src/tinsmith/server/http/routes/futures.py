"""Results: a poll is held until there is one, or for a while."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.handlers.intake.bodies import check_body, parse
from tinsmith.server.http.json_results import MOST_BYTES, to_json
from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, get_owner, reply, service_of, token_of
from tinsmith.server.http.routes.quick import quick
from tinsmith.server.service import Service
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.keys import hash_of
from tinsmith.types.errors import Damaged, RequestErrorCategory, invalid
from tinsmith.types.names.http_names import API_PREFIX, JSON, PROTOBUF
from tinsmith.types.requests import CancelFutureRequest, RetrieveFutureRequest
from tinsmith.types.responses import FailedFuture, TryAgainResponse

router = APIRouter(prefix=API_PREFIX)


async def retrieve_future(request: Request, owner: str, body: bytes) -> Response:
    service = service_of(request)
    record = service.core.futures.get((await parse(RetrieveFutureRequest, body)).request_id, owner)
    # Whoever waits for a result is not silent, however long the engine takes to come back.
    service.core.live.hear_of(record.session_id)
    if not await _held(request, service, record):
        # 408 and not 200: the official client warns its user of every 200 that says `try again`.
        state, reason = service.waiting.of(record)
        answer = TryAgainResponse(request_id=record.request_id, queue_state=state, queue_state_reason=reason)
        return reply(answer, 408)
    answer = await _outcome(request, service, record)
    # An answer that nobody reads is not fetched: its client asks again and must find it.
    if not await request.is_disconnected():
        service.core.futures.fetched(record)
    return answer


quick_routes = [quick("/retrieve_future", retrieve_future)]


async def _held(request: Request, service: Service, record: Record) -> bool:
    """Wait for an outcome; False if there is none yet.

    Raises:
        UserError: the key was revoked meanwhile (401).
    """
    token = token_of(request) if service.owner is None else None
    key = hash_of(token) if token is not None else None
    settled = await service.core.futures.wait(record, service.settings.long_poll_s, key)
    # Once more: the wait ends, too, where the key is revoked. Found in memory most of the time.
    await get_owner(request)
    return settled


async def _outcome(request: Request, service: Service, record: Record) -> Response:
    if record.state is State.FAILED:
        category = record.category.value if record.category is not None else "unknown"
        return reply(FailedFuture(error=record.error or "failed", category=category))
    try:
        payload = await service.core.journal.result(record)
    except Damaged as error:
        # An answer and no 5xx, which clients would repeat for ever.
        return reply(FailedFuture(error=str(error), category=RequestErrorCategory.SERVER.value))
    if record.media_type != PROTOBUF:
        return Response(payload, media_type=JSON)
    accept = request.headers.get("accept", "")
    # A client that names neither gets protobuf, which costs nothing to make: it is what the engine sent.
    if JSON in accept and PROTOBUF not in accept:
        if len(payload) > MOST_BYTES:
            raise invalid("Accept", f"{JSON} for a result of {len(payload)} bytes", PROTOBUF, status=406)
        return Response(await check_body(payload, to_json, record, payload), media_type=JSON)
    return Response(payload, media_type=PROTOBUF)


@router.post("/cancel_future")
async def cancel_future(service: ServiceDep, owner: Owner, body: Body) -> Response:
    service.sampling.cancel(service.core.futures.get((await parse(CancelFutureRequest, body)).request_id, owner))
    return reply({})
