"""JSON bodies that a client sends. Unknown fields are ignored, as the protocol asks of a server."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams


class WireRequest(BaseModel):
    """Base of all request bodies."""

    # `defer_build`: a class's validator is built at its first use, since building all of them would slow every import
    # of the SDK. `protected_namespaces`: the protocol has fields that begin with `model_`.
    model_config = ConfigDict(extra="ignore", protected_namespaces=(), defer_build=True)

    def wire(self) -> dict[str, Any]:
        """Return the JSON form: fields that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def _check_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep what is stored with every run and listed with it to what a person would write there."""
    size = len(json.dumps(metadata)) if metadata else 0
    if size > _MOST_METADATA:
        raise ValueError(f"at most {_MOST_METADATA} bytes of JSON, not {size}")
    return metadata


# Bytes of JSON that a client may have stored with a session, a run or a checkpoint.
_MOST_METADATA = 64 * 1024
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
OptionalMetadata = Annotated[dict[str, Any] | None, AfterValidator(_check_metadata)]


# A name or a note of a person.
Text = Annotated[str, StringConstraints(max_length=1024)]


class ClientConfigRequest(WireRequest):
    """POST /client/config and /client/dynamic_config."""

    sdk_version: str = ""


class CreateSessionRequest(WireRequest):
    """POST /create_session."""

    tags: Annotated[list[Text], Field(max_length=64)] = []
    user_metadata: Metadata = {}
    sdk_version: Text = ""
    project_id: Text | None = None
    display_name: Text | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatRequest(WireRequest):
    """POST /session_heartbeat."""

    session_id: str
    type: Literal["session_heartbeat"] = "session_heartbeat"


class FinishReason(WireRequest):
    """How a session ended."""

    type: Literal["success", "errored", "interrupted"]


class FinishSessionRequest(WireRequest):
    """POST /sessions/{id}/finish."""

    reason: FinishReason
    detail: str | None = None


class OptimizerConfig(WireRequest):
    """The optimizer family that a model is created with; checked against what is served."""

    type: str = "adamw"


class WireLoraConfig(LoraConfig):
    """`LoraConfig` as others may send it: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CreateModelRequest(WireRequest):
    """POST /create_model."""

    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: WireLoraConfig
    optimizer_config: OptimizerConfig = OptimizerConfig()
    user_metadata: OptionalMetadata = None
    type: Literal["create_model"] = "create_model"


class GetInfoRequest(WireRequest):
    """POST /get_info."""

    model_id: str
    type: Literal["get_info"] = "get_info"


class OptimStepRequest(WireRequest):
    """POST /optim_step."""

    model_id: str
    seq_id: int
    # The protocol has one field for Adam and another for all other optimizers, which are refused by name.
    adam_params: AdamParams | None = None
    optimizer_params: dict[str, Any] | None = None
    type: Literal["optim_step"] = "optim_step"


class SaveWeightsRequest(WireRequest):
    """POST /save_weights."""

    model_id: str
    # Called a path by the protocol; it is the checkpoint's name, the last part of its address.
    path: str
    seq_id: int
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: OptionalMetadata = None
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsForSamplerRequest(WireRequest):
    """POST /save_weights_for_sampler: named (`path`) or un-named (`sampling_session_seq_id`)."""

    model_id: str
    seq_id: int
    path: str | None = None
    sampling_session_seq_id: int | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"
    ttl_seconds: int | None = None
    user_metadata: OptionalMetadata = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class ImportCheckpointRequest(WireRequest):
    """First line of POST /import_checkpoint; the adapter's safetensors file follows it."""

    base_model: str
    name: str
    adapter_config: dict[str, Any]
    ttl_seconds: int | None = None
    user_metadata: OptionalMetadata = None
    type: Literal["import_checkpoint"] = "import_checkpoint"


class LoadWeightsRequest(WireRequest):
    """POST /load_weights: into a new model (`session_id`, `model_seq_id`) or an existing one (`model_id`, `seq_id`)."""

    path: str
    optimizer: bool
    session_id: str | None = None
    model_seq_id: int | None = None
    model_id: str | None = None
    seq_id: int | None = None
    base_model: str | None = None
    optimizer_config: OptimizerConfig | None = None
    user_metadata: OptionalMetadata = None
    weights_access_token: str | None = None
    type: Literal["load_weights"] = "load_weights"


class CreateSamplingSessionRequest(WireRequest):
    """POST /create_sampling_session: of a base model or of a saved path."""

    session_id: str
    sampling_session_seq_id: int
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class WireSamplingParams(SamplingParams):
    """`SamplingParams` as others may send them: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# Not `ModelInput`: what is not served shall be refused with its field's name, not by a parser.
class WireChunk(WireRequest):
    """One chunk of a prompt; only `encoded_text` is served."""

    type: str
    tokens: list[int] | None = None


class WirePrompt(WireRequest):
    """A prompt's chunks."""

    chunks: list[WireChunk]


class SampleRequest(WireRequest):
    """POST /asample."""

    sampling_session_id: str
    seq_id: int
    prompt: WirePrompt
    num_samples: int = 1
    sampling_params: WireSamplingParams = Field(default_factory=WireSamplingParams)
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: dict[str, Any] | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: bool = False
    type: Literal["sample"] = "sample"


class RetrieveFutureRequest(WireRequest):
    """POST /retrieve_future."""

    request_id: str
    allow_metadata_only: bool = False


class CancelFutureRequest(WireRequest):
    """POST /cancel_future."""

    request_id: str


class WeightsInfoRequest(WireRequest):
    """POST /weights_info."""

    tinker_path: str


class SetTtlRequest(WireRequest):
    """PUT .../ttl; null removes the expiry."""

    ttl_seconds: int | None
