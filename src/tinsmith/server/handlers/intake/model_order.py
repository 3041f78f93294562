"""What all requests of a model's order have in common: each gets its place, whether it is sound or not.

A 4xx would leave a hole in the order and could make a client hang, so it is kept for bodies that cannot be read at
all; anything else that is wrong with a request fails its future.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from tinsmith.server.handlers.intake.intake import Intake
from tinsmith.server.state.live import RunStatus, TrainingRun
from tinsmith.server.state.records import Record
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import Effect
from tinsmith.types.errors import Damaged, RequestErrorCategory, UserError, invalid

# The database counts in signed 64 bits; this leaves room to add.
_MAX_SEQ_ID = 2**62


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a sound request does beside being an operation; see `Intake.accept`."""

    effects: Sequence[Effect] = ()
    reserve: Callable[[], None] | None = None
    undo: Callable[[], None] | None = None


Prepare = Callable[[TrainingRun, Record], Awaitable[Prepared]]


class ModelOrder:
    """Gives requests their place in a model's order."""

    def __init__(self, core: Core, intake: Intake) -> None:
        self._live = core.live
        self._intake = intake

    async def accept(self, record: Record, model_id: object, seq_id: object, prepare: Prepare) -> Record:
        """Accept a request.

        Args:
            record: its operation, without a place yet.
            model_id, seq_id: the place that it names.
            prepare: checks the request and completes the operation; raises `UserError` where the request is at fault.
        """
        try:
            self._find_place(record, model_id, seq_id)
        except UserError as error:
            # Part of the place may have been found; the refusal must not take it.
            record.model_id = record.seq_id = record.scope = None
            return await self._intake.refuse(record, error.message)
        # A repeat gets the first one's answer before anything is checked: what it names may be gone by now.
        if self._intake.known(record.scope):
            return await self._intake.accept(record)
        try:
            run = self._live.run(record.model_id or "", record.owner)
            if not run.usable:
                # A run that was lost is the service's fault, one that could not be made its client's.
                category = (
                    RequestErrorCategory.SERVER if run.status is RunStatus.CORRUPTED else RequestErrorCategory.USER
                )
                return await self._intake.accept(record.refuse(f"model {run.id}: {run.error}", category))
            prepared = await prepare(run, record)
            self._live.run(run.id, record.owner)  # its session may have ended meanwhile
        except UserError as error:
            return await self._intake.accept(record.refuse(error.message))
        except Damaged as error:
            return await self._intake.accept(record.refuse(str(error), RequestErrorCategory.SERVER))
        return await self._intake.accept(record, prepared.effects, reserve=prepared.reserve, undo=prepared.undo)

    async def accept_json(self, record: Record, fields: dict[str, Any], prepare: Prepare) -> Record:
        """Accept a request whose place is in its JSON."""
        return await self.accept(record, fields.get("model_id"), fields.get("seq_id"), prepare)

    def _find_place(self, record: Record, model_id: object, seq_id: object) -> None:
        if not isinstance(model_id, str):
            raise invalid("model_id", model_id, "the id of a training run")
        run = self._live.run(model_id, record.owner)
        if not is_count(seq_id, 1):
            raise invalid("seq_id", seq_id, "a whole number from 1")
        record.session_id = run.session_id
        record.model_id, record.seq_id, record.base_model = run.id, int(str(seq_id)), run.base_model
        record.scope = f"train:{run.id}:{seq_id}"
        if record.seq_id <= run.cut and not self._intake.known(record.scope):
            raise invalid("seq_id", seq_id, f"more than {run.cut}: it was carried out and its result has expired")


def is_count(value: object, least: int) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from `least`."""
    # JSON's true is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_SEQ_ID
