"""The live state of the service: sessions, their models and their samplers. Rows of ended ones stay in the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tinsmith.server.state.records import Record
from tinsmith.types.errors import invalid
from tinsmith.types.params import LoraConfig


class RunStatus(StrEnum):
    """How a training run is; only `creating` and `live` take operations that are carried out."""

    CREATING = "creating"
    LIVE = "live"
    FAILED = "failed"
    CORRUPTED = "corrupted"
    ENDED = "ended"


@dataclass(slots=True, frozen=True)
class RecoveryPoint:
    """A recovery point: the model's state on disk after operation `seq_id`."""

    seq_id: int
    folder: str


@dataclass(slots=True, eq=False)
class TrainingRun:
    """A training run that is alive.

    Attributes:
        creation: the operation that made it.
        ops: its journalled operations by `seq_id`.
        points: its recovery points, oldest first.
        pointed_at: when the last one was asked for; None when one should be taken at the next chance.
        pointless: engines were lost while they wrote one, so that none is taken any more.
        error: why it failed or could not be rebuilt.
        base_weights: digest of the base model's weights that it began with; None until it has.
    """

    id: str
    session_id: str
    owner: str
    base_model: str
    lora: LoraConfig
    status: RunStatus = RunStatus.CREATING
    error: str | None = None
    creation: Record | None = None
    ops: dict[int, Record] = field(default_factory=dict[int, Record])
    points: list[RecoveryPoint] = field(default_factory=list[RecoveryPoint])
    pointed_at: float | None = field(default_factory=time.monotonic)
    pointless: bool = False
    last_request_at: float = field(default_factory=time.time)
    base_weights: str | None = None

    @property
    def cut(self) -> int:
        """Everything up to here is held by the oldest recovery point; the journal no longer has it."""
        return self.points[0].seq_id if self.points else 0

    @property
    def usable(self) -> bool:
        """Whether operations can be carried out."""
        return self.status in (RunStatus.CREATING, RunStatus.LIVE)


@dataclass(slots=True, eq=False)
class SamplingSession:
    """A sampling session that is alive.

    Attributes:
        model_path: the checkpoint it was made from, if it was.
        folder: where its adapter lies, or will once `on_disk`; None for the base model itself.
        model_id, model_seq: for a snapshot, which model and which operation made it.
        ready, loading: whether the engine holds it, or was asked to.
        used_at: when it was last sampled from, seconds, monotonic.
        held: samples that wait for `ready`.
        closing: its client has closed it; samples that were accepted before are still carried out.
        base_weights: digest of the base model's weights that it began with; None until the engine has held it.
        damage: what of it the database cannot tell; its samples fail.
    """

    id: str
    session_id: str
    owner: str
    base_model: str
    model_path: str | None = None
    folder: str | None = None
    on_disk: bool = True
    model_id: str | None = None
    model_seq: int | None = None
    created_at: float = field(default_factory=time.time)
    ready: bool = False
    loading: bool = False
    used_at: float = field(default_factory=time.monotonic)
    held: list[Record] = field(default_factory=list[Record])
    closing: bool = False
    base_weights: str | None = None
    damage: str | None = None


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session that is alive.

    Attributes:
        heard_at: last sign of life in the service's own time, in which silence is counted.
        seen_at: the same in seconds since the epoch, to be shown.
        runs, samplers: ids of what belongs to it.
        closing: its client has finished it; what was asked for before is still carried out.
        changing: held while a change of what it consists of is being stored.
    """

    id: str
    owner: str
    heard_at: float
    seen_at: float = field(default_factory=time.time)
    runs: list[str] = field(default_factory=list[str])
    samplers: list[str] = field(default_factory=list[str])
    closing: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class LiveState:
    """Look-up of what is alive. What belongs to somebody else is answered like what does not exist.

    Args:
        now: the service's time, seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.sessions: dict[str, LiveSession] = {}
        self.runs: dict[str, TrainingRun] = {}
        self.samplers: dict[str, SamplingSession] = {}

    def session(self, session_id: str, owner: str) -> LiveSession:
        """Return a session of the owner's and note the sign of life.

        Raises:
            UserError: there is none (404).
        """
        session = self.sessions.get(session_id)
        if session is None or session.owner != owner or session.closing:
            raise invalid("session_id", session_id, "a session of yours that has not ended", status=404)
        self.hear(session)
        return session

    def run(self, model_id: str, owner: str) -> TrainingRun:
        """Return a training run of the owner's and note the sign of life.

        Raises:
            UserError: there is none (404).
        """
        run = self.runs.get(model_id)
        # Run and session go at the same moment, but a session that is closing still has its runs.
        if run is None or run.owner != owner or self.sessions[run.session_id].closing:
            raise invalid("model_id", model_id, "a training run of yours whose session has not ended", status=404)
        run.last_request_at = time.time()
        self.hear(self.sessions[run.session_id])
        return run

    def sampler(self, sampler_id: str, owner: str) -> SamplingSession:
        """Return a sampling session of the owner's and note the sign of life.

        Raises:
            UserError: there is none (404).
        """
        sampler = self.samplers.get(sampler_id)
        if sampler is None or sampler.owner != owner or sampler.closing or self.sessions[sampler.session_id].closing:
            raise invalid(
                "sampling_session_id", sampler_id, "a sampling session of yours that has not ended", status=404
            )
        self.hear(self.sessions[sampler.session_id])
        return sampler

    def hear_of(self, session_id: str | None) -> None:
        """Note a sign of life of a session, if it has not ended."""
        if (session := self.sessions.get(session_id or "")) is not None:
            self.hear(session)

    def hear(self, session: LiveSession) -> None:
        """Note a sign of life."""
        session.heard_at, session.seen_at = self.now(), time.time()

    def add_session(self, session: LiveSession) -> None:
        """Add a session."""
        self.sessions[session.id] = session

    def add_run(self, run: TrainingRun) -> None:
        """Add a training run to its session."""
        self.runs[run.id] = run
        self.sessions[run.session_id].runs.append(run.id)

    def drop_run(self, run: TrainingRun) -> None:
        """Forget a training run that could not be made."""
        self.runs.pop(run.id, None)
        session = self.sessions.get(run.session_id)
        if session is not None and run.id in session.runs:
            session.runs.remove(run.id)

    def add_sampler(self, sampler: SamplingSession) -> None:
        """Add a sampling session to its session."""
        self.samplers[sampler.id] = sampler
        self.sessions[sampler.session_id].samplers.append(sampler.id)

    def drop_sampler(self, sampler: SamplingSession) -> None:
        """Forget a sampling session that was closed or could not be made."""
        self.samplers.pop(sampler.id, None)
        session = self.sessions.get(sampler.session_id)
        if session is not None and sampler.id in session.samplers:
            session.samplers.remove(sampler.id)

    def models_of(self, owner: str) -> int:
        """Return how many training runs of an owner are alive."""
        return sum(run.owner == owner and run.usable for run in self.runs.values())
