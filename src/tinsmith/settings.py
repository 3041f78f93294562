"""Every port, path and limit of Tinsmith, in one place: environment variables `TINSMITH_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_core import InitErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "tinsmith"


def _named_models(value: object) -> object:
    """Read `NAME=FOLDER_OR_HUB_ID,...`; the shell knows no dicts."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
    for name, _, source in pairs:
        if not name or not source:
            raise ValueError("NAME=FOLDER_OR_HUB_ID,...")
    return {name: source for name, _, source in pairs}


class _Environment(BaseSettings):
    # `populate_by_name`: code passes a setting by its field's name, whatever its variable is called.
    model_config = SettingsConfigDict(env_prefix="TINSMITH_", extra="ignore", populate_by_name=True)

    # A fault names what somebody can go and change: the variable, not the field that it fills.
    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            faults = [self._renamed(fault, given) for fault in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, faults) from None

    @classmethod
    def _renamed(cls, fault: Any, given: dict[str, Any]) -> InitErrorDetails:
        field, *rest = fault["loc"]
        # An argument keeps the name that the caller gave it.
        name = field if field in given else cls.variable(field)
        return InitErrorDetails(type=fault["type"], loc=(name, *rest), input=fault["input"], ctx=fault.get("ctx", {}))

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the environment variable that sets a field: the one that is set, else the first that would."""
        alias = cls.model_fields[field].validation_alias
        names = [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else []
        names = names or [f"TINSMITH_{field.upper()}"]
        # Both cases are read.
        there = [name for wanted in names for name in os.environ if name.upper() == wanted]
        return there[0] if there else names[0]


class ClientSettings(_Environment):
    """What a script reads that talks to a service: the SDK, recipes, commands."""

    # Ours first, then the hosted service's names, so that its scripts run as they are.
    base_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("TINSMITH_BASE_URL", "TINKER_BASE_URL"),
        description="Service that `ServiceClient()` talks to; unset: the embedded service in this process.",
    )
    api_key: str | None = Field(
        default=None,
        validation_alias=AliasChoices("TINSMITH_API_KEY", "TINKER_API_KEY"),
        description="API key of the client (`tml-...`); at a server's first start it becomes the first key.",
    )
    client_timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for one HTTP exchange, seconds.")
    client_retry_s: float = Field(
        default=300.0, gt=0, description="How long a client retries an unreachable service, seconds."
    )


class ServerSettings(_Environment):
    """What a service reads: one of `tinsmith serve`, and the embedded one of a script without a URL."""

    # Places
    home: Path = Field(default_factory=_default_home, description="Journal, blobs, checkpoints and caches.")
    host: str = Field(default="127.0.0.1", description="Address that `tinsmith serve` binds to.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port of `tinsmith serve`; 0 picks a free one.")
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; unset: SQLite in the data folder.")
    blob_url: str | None = Field(
        default=None, description="fsspec URL of journal bodies; unset: a folder in the data folder."
    )
    models: Annotated[dict[str, str], NoDecode, BeforeValidator(_named_models)] = Field(
        default={}, description="Names for models of the embedded service: `NAME=FOLDER_OR_HUB_ID,...`."
    )
    durability: Literal["normal", "full"] = Field(
        default="normal", description="`normal` survives a killed process, `full` a power loss too (slower)."
    )
    disk_low_mb: int = Field(
        default=1024,
        ge=0,
        description="Free space below which health says `degraded`, with a warning, MiB.",
    )
    max_upload_mb: int = Field(default=64, ge=1, description="Largest request body after decompression, MiB.")
    max_json_mb: int = Field(default=8, ge=1, description="Largest JSON body, MiB; batches travel as protobuf.")
    max_import_mb: int = Field(default=8192, ge=1, description="Largest adapter that can be imported, MiB.")

    # Connections
    header_timeout_s: float = Field(
        default=20.0, gt=0, description="How long a client may take to send the headers of a request, seconds."
    )
    body_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="A body that brings less than 1 KiB/s over so long ends its connection, seconds.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Most open connections; unset: the limit of file descriptors less 64, at most 65,536.",
    )
    max_connections_per_address: int | None = Field(
        default=None, ge=1, description="Most open connections of one address; unset: half of all."
    )

    # Limits of requests: a client that goes wrong is told so, and does not take the others' memory or time.
    max_lora_rank: int = Field(default=256, ge=1, le=256, description="Largest LoRA rank accepted.")
    max_datums: int = Field(default=4096, ge=1, description="Most datums in one forward_backward request.")
    max_sparse_cells: int = Field(
        default=4_194_304,
        ge=1,
        description="Most cells that the sparse tensors of one request may stand for, listed or not.",
    )
    max_samples: int = Field(default=1024, ge=1, description="Most samples of one prompt in one request.")
    max_topk: int = Field(default=64, ge=0, description="Largest k of top-k logprobs and alternative tokens.")
    max_table_cells: int = Field(
        default=16_777_216,
        ge=1,
        description="Most cells of tables of alternatives (top-k, drawn anew) that one sampling request may ask for.",
    )
    max_stop_sequences: int = Field(default=64, ge=1, description="Most stop strings or stop tokens of one request.")
    max_queued_samples: int = Field(
        default=20_000,
        ge=1,
        description="Queued samples of all owners; then who has an even share gets 429.",
    )

    # Limits of a key: none of them is felt by anybody else.
    max_models_per_key: int = Field(default=256, ge=1, description="Live training runs of one API key.")
    max_tokens_in_flight_per_key: int = Field(
        default=33_554_432,
        ge=1,
        description="Tokens of one key's passes that have no result yet, and as many of its samples; above, 429.",
    )
    max_stored_mb_per_key: int | None = Field(
        default=None,
        ge=1,
        description="Checkpoints and recorded samples of one key, MiB; unset: what the disk holds.",
    )
    max_open_requests_per_key: int | None = Field(
        default=None,
        ge=1,
        description="Requests of one key that are being answered, held polls too; unset: half of all connections.",
    )
    max_refusals_per_key: int = Field(
        default=1000,
        ge=1,
        description="Refused requests of one key that are kept as failed futures; above, they are answered at once.",
    )

    # Times
    session_timeout_s: float = Field(
        default=7200.0,
        gt=0,
        description="A session without a heartbeat for so long is ended and its memory freed, seconds.",
    )
    gap_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="How long an operation waits for one missing before it in its model's order, seconds.",
    )
    long_poll_s: float = Field(
        default=25.0, gt=0, le=40, description="How long a poll for a result is held open, seconds."
    )
    result_retention_s: float = Field(
        default=3600.0, gt=0, description="How long a result is kept after it was first fetched, seconds."
    )
    recording_retention_s: float = Field(
        default=86_400.0,
        gt=0,
        description="How long a sequence sampled with record_stability_info is kept after its last use, seconds.",
    )
    max_recorded_mb: int = Field(
        default=1024,
        ge=1,
        description="Sequences recorded so for one owner, MiB; more, and the longest unused are forgotten.",
    )
    engine_beat_s: float = Field(
        default=30.0,
        ge=2,
        description="An engine process that says nothing for so long is killed and replaced, seconds.",
    )
    engine_stall_s: float = Field(
        default=600.0,
        ge=2,
        description="An engine process that is in one turn for so long is killed and replaced, seconds.",
    )
    recovery_interval_s: float = Field(
        default=60.0, gt=0, description="Least time between two recovery points of one model, seconds."
    )
    sampler_rest_s: float = Field(
        default=900.0,
        gt=0,
        description="A sampler that nobody used for so long leaves the engine's memory until it is used, seconds.",
    )
    max_resident_samplers: int = Field(
        default=64,
        ge=1,
        description="Samplers of one base model in the engine's memory; more, and the idlest leave it.",
    )
    checkpoint_min_ttl_s: int = Field(default=3600, ge=1, description="Shortest lifetime of a checkpoint, seconds.")
    checkpoint_max_ttl_s: int = Field(
        default=315_360_000, ge=1, description="Longest lifetime of a checkpoint, seconds."
    )


class EngineSettings(_Environment):
    """What an engine reads, which holds the models: of `tinsmith serve` a process of its own."""

    # Budgets are in tokens, because a pass costs what its tokens cost, however many rows they are.
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    dtype: str = Field(
        default="auto", description="`auto` (CPU float32, CUDA bfloat16), `float32`, `bfloat16`, `float16`, `float64`."
    )
    max_tokens_per_pass: int = Field(
        default=4096,
        ge=16,
        description="Token budget of one packed training pass; halved at the start until a pass fits into 40 % of the "
        "free memory.",
    )
    prefill_tokens: int = Field(default=2048, ge=16, description="Token budget of one prefill slice.")
    max_decode_batch: int = Field(default=256, ge=1, description="Most sequences decoded in one step.")
    kv_block_size: int = Field(default=16, ge=1, description="Tokens in one block of the KV cache.")
    kv_cache_mb: int | None = Field(
        default=None, ge=1, description="KV cache, MiB; unset: 60 % of the free device memory, on a CPU at most 1024."
    )
    adapter_mb: int | None = Field(
        default=None,
        ge=1,
        description="Adapters and optimizer states, MiB; unset: 30 % of device memory, 4096 on a CPU.",
    )
    host_adapter_mb: int | None = Field(
        default=None,
        ge=0,
        description="Host memory for adapters that find no room in `TINSMITH_ADAPTER_MB`, those used longest ago, MiB; "
        "unset: 30 % of the host's memory, 4096 on a CPU; 0: none, a further adapter is refused.",
    )
    reference_cache_mb: int = Field(
        default=256, ge=1, description="Reference logprobs of preference pairs that an engine keeps, MiB."
    )
    logprob_chunk: int = Field(default=1024, ge=1, description="Tokens projected to the vocabulary at once.")
    activation_checkpointing: bool = Field(
        default=False, description="Recompute each layer in the backward pass: less memory, a third more time."
    )
    native_kernels: bool = Field(
        default=True,
        description="Compile the parts of the engine that are written in C for this CPU, at the first start, with the "
        "C compiler (`CC`, else `cc`, `gcc` or `clang`); `false`, or where there is none: torch's operations, slower.",
    )
    batch_invariant: bool = Field(
        default=False,
        description="Results that no neighbour changes in a single bit, and samples with the learner's own logprobs; "
        "slower, on one thread.",
    )
    engine_threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of the engine; unset: as many as the model has work for and others leave cores free, "
        "looked at once a second. With a number the last bits of results do not follow the load.",
    )


class Settings(EngineSettings, ServerSettings, ClientSettings):
    """All settings; `docs/settings.md` is made from these fields."""
