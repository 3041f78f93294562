"""Making a model on the service: a new adapter, or one from a saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tinsmith.client.checkpoints.saved_path import settled
from tinsmith.client.sampling.prompts import check_known
from tinsmith.client.transport.exchange import parse
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.names.ids import training_run_id
from tinsmith.types.params import LoraConfig
from tinsmith.types.requests import GetInfoRequest
from tinsmith.types.responses import GetInfoResponse, UntypedFuture, WireResponse


class Created(WireResponse):
    """Answer to create_model and to load_weights into a new model."""

    model_id: str | None = None


async def create_model(session: ClientSession, model_seq_id: int, path: str, body: dict[str, Any]) -> GetInfoResponse:
    """Make a model, wait for it, and return its facts.

    Args:
        session: that it belongs to.
        model_seq_id: its number in the session; a repeated request with it makes no second model.
        path: `create_model` or `load_weights`.
        body: the request without its ids; a `path` in it that is being saved is waited for.

    Raises:
        RequestFailedError: the service could not make it.
        TinsmithError: the service gave it another id than the protocol says.
    """
    if "path" in body:
        body = {**body, "path": await settled(body["path"])}
    session_id = await session.id()
    expected = training_run_id(session_id, model_seq_id)
    fields = {"session_id": session_id, "model_seq_id": model_seq_id, **body}
    promise = parse(UntypedFuture, await session.connection.send("POST", path, json=fields))
    created = await session.poller.json(promise.request_id, Created)
    # Checkpoints were named after the expected id already, and are looked for under it.
    if created.model_id is not None and created.model_id != expected:
        raise TinsmithError(f"{session.connection.address} made model {created.model_id}, expected {expected}")
    # Asked once, here: the base model's name and width are needed later and never change.
    request = GetInfoRequest(model_id=expected)
    return await session.connection.call(GetInfoResponse, "POST", "get_info", json=request.wire())


def creation_body(base_model: str, lora: LoraConfig, user_metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return the create_model request without its ids."""
    body: dict[str, Any] = {
        "type": "create_model",
        "base_model": base_model,
        # Without a seed the service chooses one, and keeps it, so that a replay makes the same adapter.
        "lora_config": lora.model_dump(exclude_none=True),
        "optimizer_config": {"type": "adamw"},
    }
    return body | ({"user_metadata": user_metadata} if user_metadata else {})


def lora_of(config: LoraConfig | Mapping[str, Any] | None) -> LoraConfig:
    """Return the adapter's shape.

    Raises:
        UserError: a name is unknown (the nearest one is named) or a value has the wrong type.
    """
    if config is None or isinstance(config, LoraConfig):
        return config or LoraConfig()
    check_known(config, LoraConfig.model_fields, "lora_config")
    try:
        return LoraConfig(**config)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(f"lora_config.{first['loc'][0]}", first["input"], first["msg"]) from error
