"""The tables. `migrations/` makes the same schema step by step; a test holds both equal."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Named constraints, so that later migrations can change them on every database.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        float: Float(),
        int: BigInteger(),
        bool: Boolean(),
        bytes: LargeBinary(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
    }


class ApiKey(Base):
    """A key; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    key_hash: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[str]
    name: Mapped[str]
    shown: Mapped[str]  # the last characters, to recognise a key by
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
    weight: Mapped[float] = mapped_column(server_default="1")  # of its owner's account of engine time


class SessionRow(Base):
    """A client's session. `instance` is the service that serves it (`serve`, or an embedded one's id)."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str] = mapped_column(index=True)
    owner: Mapped[str] = mapped_column(index=True)
    status: Mapped[str]  # active, finished, expired, interrupted
    created_at: Mapped[float]
    last_seen_at: Mapped[float]
    ended_at: Mapped[float | None]
    end_reason: Mapped[str | None]
    end_detail: Mapped[str | None]
    project_id: Mapped[str | None]
    display_name: Mapped[str | None]
    sdk_version: Mapped[str]
    tags: Mapped[list[str]]
    user_metadata: Mapped[dict[str, Any]]


class RunRow(Base):
    """A training run: one adapter on one base model."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    owner: Mapped[str] = mapped_column(index=True)
    base_model: Mapped[str]
    lora: Mapped[dict[str, Any]]
    status: Mapped[str]  # creating, live, failed, corrupted, ended
    error: Mapped[str | None]
    user_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    last_request_at: Mapped[float]
    base_weights: Mapped[str | None]  # a digest of the base model's weights when the run began


class SamplerRow(Base):
    """A sampling session: a frozen adapter (`folder`), or the base model itself."""

    __tablename__ = "samplers"

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    owner: Mapped[str]
    base_model: Mapped[str]
    model_path: Mapped[str | None]
    folder: Mapped[str | None]
    on_disk: Mapped[bool]
    model_id: Mapped[str | None]
    model_seq: Mapped[int | None]  # a snapshot's place in its model's order
    created_at: Mapped[float]
    base_weights: Mapped[str | None]  # a digest of the base model's weights when the sampler was made


class CheckpointRow(Base):
    """A saved checkpoint; the row is written only once the files are complete."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "kind", "name"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    kind: Mapped[str]
    name: Mapped[str]
    owner: Mapped[str] = mapped_column(index=True)
    folder: Mapped[str]  # relative to the data folder
    base_model: Mapped[str]
    lora: Mapped[dict[str, Any]]
    size_bytes: Mapped[int]
    public: Mapped[bool]
    user_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    expires_at: Mapped[float | None] = mapped_column(index=True)


class OperationRow(Base):
    """A journalled operation and, once it has one, its outcome."""

    __tablename__ = "operations"
    __table_args__ = (Index(None, "model_id", "seq_id"),)

    # The order of arrival, which the ids do not tell.
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(unique=True)
    instance: Mapped[str] = mapped_column(index=True)
    scope: Mapped[str | None] = mapped_column(unique=True)
    payload_hash: Mapped[str]
    kind: Mapped[str]
    owner: Mapped[str]
    session_id: Mapped[str | None]
    base_model: Mapped[str]
    model_id: Mapped[str | None]
    seq_id: Mapped[int | None]
    sampler_id: Mapped[str | None]
    args: Mapped[dict[str, Any]]
    body: Mapped[bytes | None]
    body_blob: Mapped[str | None]
    body_digest: Mapped[str | None]
    state: Mapped[str]  # pending, done, failed
    at_door: Mapped[bool]  # it was refused before it reached an engine
    result: Mapped[bytes | None]
    result_blob: Mapped[str | None]
    outcome_digest: Mapped[str | None]
    media_type: Mapped[str | None]
    error: Mapped[str | None]
    category: Mapped[str | None]
    created_at: Mapped[float]
    settled_at: Mapped[float | None]
    fetched_at: Mapped[float | None]


class RecoveryPointRow(Base):
    """A model's state on disk that holds everything up to and including `seq_id`."""

    __tablename__ = "recovery_points"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    seq_id: Mapped[int]
    folder: Mapped[str]
    created_at: Mapped[float]


class RecordingRow(Base):
    """A sampling request whose sequences a loss may name later; sampling with `record_stability_info` makes one."""

    __tablename__ = "recordings"
    __table_args__ = (Index(None, "owner", "used_at"),)

    request_id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    owner: Mapped[str]
    used_at: Mapped[float]
    size_bytes: Mapped[int]
    prompt: Mapped[bytes]  # int32
    sequences: Mapped[bytes | None]  # a protobuf SampleResponse of tokens and logprobs; NULL until they are drawn


class DataFolderRow(Base):
    """Which data folder the database belongs to, and how often a service has been started on both."""

    __tablename__ = "data_folder"

    id: Mapped[str] = mapped_column(primary_key=True)
    starts: Mapped[int]


class BaseModelRow(Base):
    """What the service last knew of a base model, so that requests can be checked while an engine restarts."""

    __tablename__ = "base_models"

    name: Mapped[str] = mapped_column(primary_key=True)
    info: Mapped[dict[str, Any]]
