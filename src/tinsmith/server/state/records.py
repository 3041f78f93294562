"""What the service keeps in memory of an accepted operation: it is the future that the client polls."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from enum import StrEnum

from tinsmith.server.state.notes import Note, PassNote, SampleNote, SaveNote
from tinsmith.types.engine_messages.operations import LoadState, OpKind, SaveSampler, SaveState, Work
from tinsmith.types.errors import RequestErrorCategory

# Seeded by the system once. A request id is no secret, and asking the system for every one of them takes longer than
# all else that accepting a request does where system calls are intercepted.
_ids = random.Random()
# A forked child begins where its parent stood. Samples without a seed draw by their ids, so without a new one all
# workers that a process forks would draw the same.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.seed)


def new_id() -> str:
    """Return an id that no other operation has."""
    return f"{_ids.getrandbits(128):032x}"


class State(StrEnum):
    """How far an operation is."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Latch:
    """An event that is set once.

    An `asyncio.Event` takes 700 bytes for those who may wait for it; of most operations nobody does, and tens of
    thousands of them are kept for as long as their results may be asked for.
    """

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait until it is set."""
        if not self._is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


# No `eq`: two requests with the same contents are two operations, and sets hold both.
@dataclass(slots=True, eq=False)
class Record:
    """One accepted operation.

    Attributes:
        kind: what the request asks for; known before the request has been understood.
        owner: whose key asked.
        base_model: the engine; empty where the request named none that exists.
        session_id, model_id, seq_id, sampler_id: what it belongs to.
        work: what the engine is told, with folders relative to the data folder; None where the request was refused
            before that was known.
        note: what else of the request is needed later.
        scope: the idempotency key; None where a repeat cannot be recognised.
        payload_hash: of the request as the client sent it.
        body: bulky input; dropped once the journal or the engine has it.
        body_blob: where the journal keeps a bulky body.
        body_digest: of the body as journalled.
        state, result, media_type, error, category: the outcome. `result` may be None while the journal has it.
        outcome_digest: of the outcome as journalled.
        settled_at, fetched_at: when there was an outcome, and when it was first delivered, in the service's own time.
        damage: what of it the journal cannot tell; it cannot be run again, and nothing can be rebuilt across it.
        at_door: refused before it reached an engine.
        submitted_in: the life of the engine host that it was handed to; 0 for none.
        losses: how often an engine was lost while it ran this, since it last had an outcome there.
        company: how many operations at most may be run together with it after such a loss; None after none.
    """

    kind: OpKind
    owner: str
    base_model: str = ""
    request_id: str = field(default_factory=new_id)
    session_id: str | None = None
    model_id: str | None = None
    seq_id: int | None = None
    sampler_id: str | None = None
    work: Work | None = None
    note: Note | None = None
    scope: str | None = None
    payload_hash: str = ""
    body: bytes | None = None
    body_blob: str | None = None
    body_digest: str | None = None
    state: State = State.PENDING
    result: bytes | None = None
    result_blob: str | None = None
    media_type: str | None = None
    outcome_digest: str | None = None
    damage: str | None = None
    error: str | None = None
    category: RequestErrorCategory | None = None
    at_door: bool = False
    created_at: float = field(default_factory=time.time)
    settled_at: float | None = None
    fetched_at: float | None = None
    submitted_in: int = 0
    losses: int = 0
    company: int | None = None
    accepted: Latch = field(default_factory=Latch)
    settled: Latch = field(default_factory=Latch)

    def refuse(self, message: str, category: RequestErrorCategory = RequestErrorCategory.USER) -> Record:
        """Make this the record of a request that is refused at the door; return it."""
        self.at_door = True
        self.body = None
        self.fail(message, category)
        return self

    def fail(self, message: str, category: RequestErrorCategory) -> None:
        """Note a failure; `settled` is set by whoever has stored it."""
        self.state = State.FAILED
        self.error = message
        self.category = category

    def succeed(self, result: bytes, media_type: str) -> None:
        """Note a result; `settled` is set by whoever has stored it."""
        self.state = State.DONE
        self.result = result
        self.media_type = media_type

    @property
    def forward_only(self) -> bool:
        """Whether this is a forward pass, which leaves no gradients."""
        return isinstance(self.note, PassNote) and self.note.forward_only

    @property
    def tokens(self) -> int:
        """Tokens that it may cost; 0 where it is neither a pass nor a sample."""
        return self.note.tokens if isinstance(self.note, PassNote | SampleNote) else 0

    @property
    def saves_bytes(self) -> int:
        """About how many bytes a save under a name will take; 0 for other operations."""
        return self.note.expected_bytes if isinstance(self.note, SaveNote) else 0

    @property
    def checkpoint_folder(self) -> str | None:
        """The folder that a save under a name fills; None for other operations."""
        return self.work.folder if isinstance(self.work, SaveState | SaveSampler) else None

    @property
    def pinned_folder(self) -> str | None:
        """The folder that holds on to what was loaded, whatever becomes of the checkpoint; None without a load."""
        return self.work.folder if isinstance(self.work, LoadState) else None
