"""JSON bodies that the service answers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict

from tinsmith.types.names.paths import CheckpointType


def _as_text(metadata: object) -> object:
    if not isinstance(metadata, dict):
        return metadata
    items = cast("dict[str, Any]", metadata).items()
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in items}


# Clients may send any JSON as values, but take back text only.
Metadata = Annotated[dict[str, str], BeforeValidator(_as_text)]


class WireResponse(BaseModel):
    """Base of all response bodies; a client ignores fields it does not know."""

    # As for requests: validators are built when they are first used.
    model_config = ConfigDict(extra="ignore", protected_namespaces=(), defer_build=True)


class ClientConfigResponse(WireResponse):
    """How a client should behave towards this service."""

    pjwt_auth_enabled: bool = False
    parallel_fwdbwd_chunks: bool = True
    proto_compress_fwdbwd: bool = False
    # Bounds of one forward_backward request, in datums and estimated bytes; a client cuts its batches by them.
    fwdbwd_max_chunk_len: int = 1024
    fwdbwd_max_chunk_bytes_count: int = 5_000_000
    sample_max_concurrent_requests: int = 2000
    # Tinsmith's own fields: other clients ignore them.
    losses: list[str] = []
    close_sampler: bool = False


class DynamicConfigResponse(WireResponse):
    """What may change while a client runs."""

    refresh_interval_sec: int = 300
    sample_cancel_enabled: bool = False
    sample_cancel_max_batch_size: int = 64


class CreateSessionResponse(WireResponse):
    """A session's id and messages to log."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatResponse(WireResponse):
    """Answer to a heartbeat."""

    type: Literal["session_heartbeat"] = "session_heartbeat"


class TelemetryResponse(WireResponse):
    """Answer to telemetry, which is accepted and dropped."""

    status: Literal["accepted"] = "accepted"


class UntypedFuture(WireResponse):
    """A promise of a result."""

    request_id: str
    model_id: str | None = None
    sample_sequence_ids: list[str] | None = None


QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]


class TryAgainResponse(WireResponse):
    """The result is not there yet."""

    request_id: str
    queue_state: QueueState = "active"
    queue_state_reason: str | None = None
    type: Literal["try_again"] = "try_again"


class FailedFuture(WireResponse):
    """An operation failed."""

    error: str
    category: str


class CreateModelResponse(WireResponse):
    """A model was created."""

    model_id: str
    type: Literal["create_model"] = "create_model"


class ModelData(WireResponse):
    """What a model is made of."""

    arch: str | None = None
    model_name: str | None = None
    tokenizer_id: str | None = None
    # Tinsmith's own fields.
    hidden_size: int | None = None
    context_length: int | None = None
    device: str | None = None
    dtype: str | None = None


class GetInfoResponse(WireResponse):
    """A training model's facts."""

    model_id: str
    model_data: ModelData
    optimizer_config: dict[str, Any] = {"type": "adamw"}
    is_lora: bool | None = True
    lora_rank: int | None = None
    model_name: str | None = None
    type: Literal["get_info"] = "get_info"


class SupportedModel(WireResponse):
    """A base model that the service has loaded."""

    model_name: str | None = None
    max_context_length: int | None = None
    trainable: bool | None = True
    sampleable: bool | None = True
    # Tinsmith's own fields.
    kind: str | None = None
    architecture: str | None = None
    hidden_size: int | None = None
    parameters: int | None = None
    is_moe: bool | None = None


class GetServerCapabilitiesResponse(WireResponse):
    """Base models and losses that the service has."""

    supported_models: list[SupportedModel]
    losses: list[str] = []


class CreateSamplingSessionResponse(WireResponse):
    """A sampling session was created."""

    sampling_session_id: str
    type: Literal["create_sampling_session"] = "create_sampling_session"


class GetSamplerResponse(WireResponse):
    """What a sampling session samples from."""

    sampler_id: str
    base_model: str
    model_path: str | None = None


class Cursor(WireResponse):
    """Where a page of a listing stands."""

    offset: int
    limit: int
    total_count: int


class Checkpoint(WireResponse):
    """One saved checkpoint."""

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: datetime
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    user_metadata: Metadata | None = None
    expires_at: datetime | None = None
    # Tinsmith's own fields.
    base_model: str | None = None
    lora_rank: int | None = None


class TrainingRun(WireResponse):
    """One training run: a model and its checkpoints."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool = True
    last_request_time: datetime
    corrupted: bool = False
    lora_rank: int | None = None
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: Metadata | None = None
    # Tinsmith's own fields: of all its checkpoints together.
    checkpoint_count: int | None = None
    size_bytes: int | None = None


class TrainingRunsResponse(WireResponse):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor


class CheckpointsResponse(WireResponse):
    """A page of checkpoints."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None


class ImportCheckpointResponse(WireResponse):
    """An accepted import: the futures of the load, of the state and of the weights for sampling."""

    model_id: str
    request_ids: list[str]


class WeightsInfoResponse(WireResponse):
    """What a saved checkpoint holds."""

    base_model: str
    is_lora: bool = True
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    optimizer_config: dict[str, Any] = {"type": "adamw"}


class SessionsResponse(WireResponse):
    """A page of session ids."""

    sessions: list[str]


class SessionResponse(WireResponse):
    """A session's runs and samplers."""

    training_run_ids: list[str]
    sampler_ids: list[str]
    user_metadata: Metadata | None = None
    display_name: str | None = None
