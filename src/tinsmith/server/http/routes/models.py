"""Base models: which are served, their tokenizers, and the facts of a training model."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from tinsmith.server.handlers.intake.bodies import parse
from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, reply
from tinsmith.server.store.catalog import losses
from tinsmith.types.errors import invalid
from tinsmith.types.names.http_names import API_PREFIX, JSON
from tinsmith.types.requests import GetInfoRequest
from tinsmith.types.responses import GetInfoResponse, GetServerCapabilitiesResponse, ModelData

router = APIRouter(prefix=API_PREFIX)


@router.get("/get_server_capabilities")
async def get_server_capabilities(service: ServiceDep, owner: Owner) -> Response:
    # An empty list would send a client away that came while the first engine starts.
    await service.core.catalog.wait_up()
    return reply(GetServerCapabilitiesResponse(supported_models=service.core.catalog.listing(), losses=losses()))


@router.post("/get_info")
async def get_info(service: ServiceDep, owner: Owner, body: Body) -> Response:
    run = service.core.live.run((await parse(GetInfoRequest, body)).model_id, owner)
    info = await service.core.catalog.find(run.base_model)
    data = ModelData(
        arch=info.model_type,
        model_name=run.base_model,
        tokenizer_id=run.base_model,
        hidden_size=info.hidden_size,
        context_length=info.context_length,
        device=info.device,
        dtype=info.dtype,
    )
    return reply(GetInfoResponse(model_id=run.id, model_data=data, lora_rank=run.lora.rank, model_name=run.base_model))


@router.get("/tokenizer")
async def tokenizer(
    request: Request, service: ServiceDep, owner: Owner, model: Annotated[str, Query(min_length=1)]
) -> Response:
    folder = service.core.catalog.folders.get(model)
    if folder is None:
        raise invalid("model", model, f"one of {', '.join(sorted(service.core.catalog.folders))}", status=404)
    # On a thread: a tokenizer.json may be tens of megabytes long.
    body, etag = await anyio.to_thread.run_sync(service.tokenizers.get, folder)
    # `no-cache` lets a client keep it but ask each time, which a 304 answers: another model may take the name.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    # A proxy that compresses answers marks their tags as weak.
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=JSON, headers=headers)
