"""The checkpoints of a run: submitted without waiting, recorded in order, found again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from tinsmith.cookbook.runs.jsonl import JsonlWriter, Row
from tinsmith.types.errors import (
    NotFoundError,
    PermissionDeniedError,
    RequestErrorCategory,
    RequestFailedError,
    TinsmithError,
)

if TYPE_CHECKING:
    from tinsmith import RestClient, SavedPath, TrainingClient
    from tinsmith.cookbook.runs.run_clients import RunClients

logger = logging.getLogger("tinsmith.cookbook")
FILE = "checkpoints.jsonl"
Kind = Literal["periodic", "rolling", "final"]


class SavedState(NamedTuple):
    """A training state that a run can carry on from: `step` steps are done, the state lies at `path`."""

    step: int
    path: str


class SavedFinal(NamedTuple):
    """What a run ends with: a training state, and weights to sample from."""

    state_path: str
    sampler_path: str


@dataclass(frozen=True)
class _PendingSave:
    step: int
    kind: Kind
    name: str
    state: SavedPath
    sampler: SavedPath | None


class RunCheckpoints:
    """Saves and records the checkpoints of a run.

    Args:
        writer: shared with the metrics, on whose rows a checkpoint stands.
        rows: what `checkpoints.jsonl` holds of earlier starts.
        first_step: steps that are done when the run is taken up.
        clients: of the run; they delete rolling states, and say what listings tell of a checkpoint.
        ttl_seconds: lifetime of all but the final one.

    Attributes:
        recorded: steps that are done in the newest checkpoint on record.
    """

    def __init__(
        self,
        writer: JsonlWriter,
        rows: Sequence[Row],
        first_step: int,
        clients: RunClients,
        ttl_seconds: int | None,
    ) -> None:
        self._writer = writer
        self._clients = clients
        self._ttl = ttl_seconds
        self._pending: deque[_PendingSave] = deque()
        self.recorded = first_step
        self._rolling = [row["state_path"] for row in saved_rows(rows) if row["kind"] == "rolling"]

    def submit(self, step: int, kind: Kind, training_client: TrainingClient) -> None:
        """Ask for a checkpoint after `step` steps; a rolling one is a state only."""
        # Six digits, so that names sort as steps do.
        name = "final" if kind == "final" else f"{step:06d}"
        ttl = None if kind == "final" else self._ttl
        # Overwritten where it is there already: a run that was killed after saving and before recording saves it anew.
        noted = self._clients.noted(step)
        state = training_client.save_state(name, ttl_seconds=ttl, overwrite=True, user_metadata=noted)
        sampler = (
            None
            if kind == "rolling"
            else training_client.save_weights_for_sampler(name, ttl_seconds=ttl, user_metadata=noted)
        )
        self._pending.append(_PendingSave(step, kind, name, state, sampler))

    def settle(self, done: int) -> None:
        """Wait for the checkpoints of up to `done` steps and record them.

        One that the service could not save is a warning; the run goes on without it.

        Raises:
            RequestFailedError: the service refuses what was asked for, a lifetime for example, as it would every time.
        """
        while self._pending and self._pending[0].step <= done:
            saved = self._pending.popleft()
            try:
                self._record(saved)
            except TinsmithError as error:
                # What the user asked for would be refused every time; better at the first save than after days without
                # one.
                if isinstance(error, RequestFailedError) and error.category == RequestErrorCategory.USER:
                    raise
                logger.warning(f"checkpoint {saved.name}: not saved ({error}); the run goes on")

    def save_final(self, step: int, training_client: TrainingClient) -> SavedFinal:
        """Save and record the final checkpoint, after all that were submitted before.

        Raises:
            TinsmithError: the service could not save it.
        """
        self.settle(step)
        self.submit(step, "final", training_client)
        row = self._record(self._pending.popleft())
        return SavedFinal(row["state_path"], row["sampler_path"])

    def _record(self, saved: _PendingSave) -> Row:
        row: Row = {"step": saved.step, "name": saved.name, "kind": saved.kind, "state_path": saved.state.result().path}
        if saved.sampler is not None:
            row["sampler_path"] = saved.sampler.result().path
        self._writer.append(FILE, row)
        self.recorded = saved.step
        # The older state goes only when the newer one is on record: a crash in between must find one of them.
        if self._writer.flush():
            self._delete_rolling()
        # After the older ones are gone: this one is the newest now.
        if saved.kind == "rolling":
            self._rolling.append(row["state_path"])
        return row

    def _delete_rolling(self) -> None:
        while self._rolling:
            path = self._rolling.pop()
            try:
                self._clients.rest().delete_checkpoint_from_tinker_path(path).result()
            except NotFoundError:
                logger.info(f"{path}: is gone already")
            except TinsmithError as error:
                logger.warning(f"{path}: an older rolling state, could not be deleted ({error})")
                continue
            self._writer.append(FILE, {"deleted": path})


def saved_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of checkpoints that the run itself has not deleted."""
    deleted = {row.get("deleted") for row in rows}
    return [row for row in rows if "state_path" in row and row["state_path"] not in deleted]


def newest_existing(rows: Sequence[Row], rest_client: Callable[[], RestClient]) -> Row | None:
    """Return the row of the newest checkpoint whose state the service still has; None where it has none of them."""
    # The service is asked, since states expire, and people delete them.
    for row in reversed(saved_rows(rows)):
        try:
            rest_client().get_weights_info_by_tinker_path(row["state_path"]).result()
        except (NotFoundError, PermissionDeniedError) as error:
            logger.warning(f"{row['state_path']}: the service does not have it any more ({error}); trying an older one")
        else:
            return row
    return None
