"""A real engine host whose turns a test takes by hand, with an engine in which every lost or doubled bit shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tests.support.fakes.fake_engine import BAD_ROW, FakeEngine, FakeModel, Weights
from tinsmith.engine.checkpoints.whole_folders import write_folder
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.scheduler.flusher import _FIRST_RETRY_S, Flush, Flusher, _Late
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Lost, Ready
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.params import AdamParams

BASE = "base"
# Small, so that an operation of several rows takes several passes and can be cut in between.
TOKENS_PER_PASS = 4


def mark(weights: Weights, gradients: Sequence[int], token: int = 0) -> float:
    """Return a number that tells states apart, exact in float32."""
    digest = hashlib.sha256(repr((weights, tuple(gradients), token)).encode()).digest()
    return float(int.from_bytes(digest[:4], "big") >> 12)


class Killed(BaseException):
    """The engine process is gone in the middle of a call."""


class MarkEngine(FakeEngine):
    """Answers with marks of its state, and writes folders as real engines do.

    Attributes:
        fuse: calls that are still to come before one kills the process; None for none.
        disk_full: snapshots and recovery points cannot be written, which are tried again. A save by name finds the room
            that it needs: it would fail, as it must, and its program be another one from there on.
    """

    def __init__(self) -> None:
        super().__init__(BASE, TOKENS_PER_PASS, token_s=1e-9, step_s=1e-9)
        self.fuse: int | None = None
        self.disk_full = False

    def burn(self) -> None:
        """Count a call; the last one does not return."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise Killed

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        self.burn()
        return super().train_rows(rows)

    def _row(self, row: TrainRow) -> RowOutput | Exception:
        token = row.datum.model_input.to_ints()[0]
        if token >= BAD_ROW:
            return super()._row(row)
        model = self.models[row.model_id]
        loss = mark(model.weights, model.gradients, token)
        if row.backward:
            model.gradients.append(token)
        return RowOutput(np.full(row.datum.model_input.length, -float(token), np.float32), loss=loss)

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, float]:
        self.burn()
        super().optim_step(model_id, adam)
        return {"mark": mark(self.models[model_id].weights, ())}

    def save_state(self, model_id: str, folder: str) -> int:
        if "recovery" in Path(folder).parts:
            self._needs_room()
        return self._write(folder, self.models[model_id])

    save_sampler = save_state

    def write_snapshot(self, sampler_id: str, folder: str) -> int:
        self._needs_room()
        return self._write(folder, FakeModel(self.samplers[sampler_id] or ()))

    def _needs_room(self) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")

    def _write(self, folder: str, model: FakeModel) -> int:
        size = write_folder(Path(folder), {"state": repr(model.weights).encode()}, {})
        self.burn()  # where it dies, what it has written is there and nobody was told
        return size


class HandFlusher(Flusher):
    """A flusher without a thread."""

    def __init__(self, on_done: Callable[[Flush, bool], None], begin: Callable[[Iterable[str]], None]) -> None:
        super().__init__(on_done, begin)
        self._waiting: list[Flush] = []

    def add(self, flush: Flush) -> None:
        self._busy[flush.sampler_id] += 1
        self._waiting.append(flush)

    def write(self) -> None:
        """Try to write each snapshot once; what fails stays for the next time."""
        waiting, self._waiting = self._waiting, []
        late: list[_Late] = []
        for flush in waiting:
            self._attempt(flush, _FIRST_RETRY_S, late)
        self._waiting += [one.flush for one in late]


class HandLink:
    """An `EngineLink` to a host that works only when told to, and that can be killed.

    Args:
        on_birth: told of every new engine before it does anything.
    """

    def __init__(self, settings: Settings, on_birth: Callable[[MarkEngine], None]) -> None:
        self._settings = settings
        self._on_birth = on_birth
        self._on_event: Callable[[Event], None] | None = None
        self._unsent: list[Event] = []
        self._handed_over: list[Operation] = []
        self.engine = MarkEngine()
        self.infos = [self.engine.info]
        self.host: EngineHost | None = None
        self.alive = False

    async def start(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self.revive()

    def submit(self, op: Operation) -> None:
        if self.host is not None:
            self._handed_over.append(op)
            self.host.submit(op)

    def repeat(self, which: int) -> None:
        """Hand over once more what this host was handed before."""
        if self.host is not None and self._handed_over:
            self.host.submit(self._handed_over[which % len(self._handed_over)])

    def cancel(self, request_id: str) -> None:
        if self.host is not None:
            self.host.cancel(request_id)

    def progressed(self) -> None:
        """Nothing: a new host comes when the test says so."""

    async def close(self) -> None:
        self._bury()

    def revive(self) -> None:
        """Start a new engine, where there is none."""
        if self.host is not None or self._on_event is None:
            return
        self.engine = MarkEngine()
        self._on_birth(self.engine)
        self._handed_over.clear()
        self.host = EngineHost(
            {BASE: self.engine}, self._unsent.append, self._settings, self.engine.clock, make_writer=HandFlusher
        )
        self._on_event(Ready(self.infos))

    def turn(self) -> bool:
        """Take one turn and send what came of it; return whether there may be more to do."""
        if self.host is None:
            return False
        try:
            # What an earlier turn has left to be written; in between the process may die.
            self._flusher.write()
            more = self.host.poll()
        except Killed:
            self.kill()
            return False
        self._send()
        return more

    @property
    def _flusher(self) -> HandFlusher:
        assert self.host is not None
        assert isinstance(self.host._flusher, HandFlusher)
        return self.host._flusher

    @property
    def writing(self) -> bool:
        """Whether snapshots wait to be written."""
        return self.host is not None and bool(+self._flusher._busy)

    def kill(self, unsent: bool = False) -> None:
        """Lose everything in memory; with `unsent` the outcome of one more turn, too, which the engine has done."""
        if self.host is None or self._on_event is None:
            return
        if unsent:
            try:
                self.host.poll()
            except Killed:
                self._unsent.clear()
        self._bury()
        self._on_event(Lost("killed", "killed"))

    def _bury(self) -> None:
        self.host = None
        self._unsent.clear()

    def _send(self) -> None:
        assert self._on_event is not None
        events, self._unsent[:] = list(self._unsent), []
        for event in events:
            self._on_event(event)
