"""Saved checkpoints: listings, lifetimes, publishing, deletion, and their files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from tinsmith.server.handlers.intake.bodies import parse
from tinsmith.server.http.routes.common import Body, Owner, ServiceDep, page_of, reply
from tinsmith.server.store.checkpoint_files import list_files, sound_file
from tinsmith.server.store.checkpoint_store import check_ttl
from tinsmith.server.store.paging import Paging
from tinsmith.types.errors import invalid
from tinsmith.types.names.http_names import API_PREFIX, BINARY, IDEMPOTENCY_KEY_HEADER
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.requests import SetTtlRequest, WeightsInfoRequest
from tinsmith.types.responses import CheckpointsResponse, ImportCheckpointResponse

router = APIRouter(prefix=API_PREFIX)

ONE = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


async def get_path(run_id: str, kind: str, name: str) -> CheckpointPath:
    """Return the address that the request's path names."""
    return CheckpointPath.parse(f"tinker://{run_id}/{kind}/{name}", "checkpoint")


# It stands behind `Owner` in signatures: who has no key is told that first.
Address = Annotated[CheckpointPath, Depends(get_path)]


@router.get("/checkpoints")
async def list_checkpoints(
    service: ServiceDep,
    owner: Owner,
    page: Annotated[Paging, Depends(page_of(100))],
) -> Response:
    saved, total = await service.core.checkpoints.of_owner(owner, page)
    return reply(CheckpointsResponse(checkpoints=[one.wire() for one in saved], cursor=page.cursor(total)))


@router.get("/training_runs/{run_id}/checkpoints")
async def list_run_checkpoints(run_id: str, service: ServiceDep, owner: Owner) -> Response:
    saved = await service.core.checkpoints.of_run(run_id, owner)
    if not saved:
        await service.listings.run(run_id, owner, accessible=False)
    cursor = Paging(len(saved), 0).cursor(len(saved))
    return reply(CheckpointsResponse(checkpoints=[one.wire() for one in saved], cursor=cursor))


@router.delete(ONE)
async def delete_checkpoint(service: ServiceDep, owner: Owner, path: Address) -> Response:
    await service.core.checkpoints.delete(path, owner)
    return Response(status_code=204)


@router.post(ONE + "/publish")
async def publish(service: ServiceDep, owner: Owner, path: Address) -> Response:
    await service.core.checkpoints.change(path, owner, public=True)
    return Response(status_code=204)


@router.delete(ONE + "/publish")
async def unpublish(service: ServiceDep, owner: Owner, path: Address) -> Response:
    await service.core.checkpoints.change(path, owner, public=False)
    return Response(status_code=204)


@router.put(ONE + "/ttl")
async def set_ttl(service: ServiceDep, owner: Owner, body: Body, path: Address) -> Response:
    settings = service.settings
    ttl = (await parse(SetTtlRequest, body)).ttl_seconds
    check_ttl(ttl, settings.checkpoint_min_ttl_s, settings.checkpoint_max_ttl_s)
    expires_at = service.core.clock.wall() + ttl if ttl is not None else None
    await service.core.checkpoints.change(path, owner, expires_at=expires_at)
    return Response(status_code=204)


@router.post("/weights_info")
async def weights_info(service: ServiceDep, owner: Owner, body: Body) -> Response:
    path = CheckpointPath.parse((await parse(WeightsInfoRequest, body)).tinker_path, "tinker_path")
    saved = await service.core.checkpoints.readable(path, {owner}, "tinker_path")
    return reply(saved.shape())


@router.post("/import_checkpoint")
async def import_checkpoint(request: Request, service: ServiceDep, owner: Owner) -> Response:
    # Not `Body`: an adapter may be gigabytes long. It goes to the disk piece by piece, measured as it comes, which a
    # compressed one would not allow.
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise invalid("Content-Encoding", encoding, "identity", status=415)
    key = request.headers.get(IDEMPOTENCY_KEY_HEADER, "")
    records = await service.importing.accept(owner, key, request.stream())
    run_id = records[0].model_id or ""
    return reply(ImportCheckpointResponse(model_id=run_id, request_ids=[record.request_id for record in records]))


@router.get(ONE + "/files")
async def checkpoint_files(service: ServiceDep, owner: Owner, path: Address) -> Response:
    saved = await service.core.checkpoints.readable(path, {owner}, "checkpoint")
    files = await list_files(service.core.data_folder.absolute(saved.folder))
    return reply(
        {"files": [asdict(file) for file in files], "base_model": saved.base_model, "size_bytes": saved.size_bytes}
    )


@router.get(ONE + "/files/{file:path}")
async def checkpoint_file(file: str, service: ServiceDep, owner: Owner, path: Address) -> FileResponse:
    saved = await service.core.checkpoints.readable(path, {owner}, "checkpoint")
    found = await sound_file(service.core.data_folder.absolute(saved.folder), file)
    return FileResponse(found, media_type=BINARY)
