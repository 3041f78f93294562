"""What one key may take of the service, asked before anything is stored: who is refused disturbs nobody else.

A limit that passes by itself (tokens in flight, kept refusals of a model's order) is answered with 429, which clients
repeat. One that lasts until its owner does something is a fault of the request: its future fails, and nobody repeats.
"""

from __future__ import annotations

import time

from tinsmith.server.faults import Unavailable
from tinsmith.server.state.live import LiveState
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.core import Core
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import Damaged, RequestErrorCategory, UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.params import LoraConfig

# Vectors as long as the weights in each kind of file: a state has two moments beside them.
_VECTORS = {"weights": 3, "sampler_weights": 1}
# Names, shapes and the configuration beside them.
_FILES_OVERHEAD = 4096
# Passes and samples take a moment at least.
_RETRY_S = 2
# How long who was asked to wait is told of it by the futures, seconds: longer than a poll is held.
_TOLD_S = 60.0


class Limits:
    """The limits of one key. Whether a request is within them is decided as it is accepted, nothing awaited between."""

    def __init__(self, core: Core) -> None:
        self._settings = core.settings
        self._refused = core.metrics.refused
        self._live = core.live
        self._usage = core.futures.usage
        self._checkpoints = core.checkpoints
        self._recordings = core.recordings
        # Who was asked to wait, until when that is worth telling, and why.
        self._held_back: dict[str, tuple[float, str]] = {}

    def held_back(self, owner: str) -> str | None:
        """Return why requests of a key were just asked to wait; None if none were."""
        until, why = self._held_back.get(owner, (0.0, ""))
        if time.monotonic() < until:
            return why
        self._held_back.pop(owner, None)
        return None

    def _hold_back(self, owner: str, why: str) -> Unavailable:
        self._held_back[owner] = (time.monotonic() + _TOLD_S, why)
        return Unavailable(why, 429, _RETRY_S)

    def check_queue(self, owner: str) -> None:
        """Check that there is room for one more sample in the queue.

        Raises:
            Unavailable: not for this owner (429).
        """
        # Refused before it is stored: on a 429 clients hold back and try again, so nothing is lost.
        limit, waiting = self._settings.max_queued_samples, self._usage.samples
        # A full queue still takes what is within an even share, so that nobody is refused for what another has queued.
        share = max(1, limit // len(waiting.keys() | {owner}))
        if waiting.total() >= limit and waiting[owner] >= share:
            why = f"queue: {waiting[owner]} of your sampling requests are waiting, of {limit} for all owners together"
            self._refused.labels("max_queued_samples").inc()
            raise self._hold_back(owner, f"{why} (TINSMITH_MAX_QUEUED_SAMPLES); slow down")

    def check_runs(self, owner: str) -> None:
        """Check that there may be one more training run.

        Raises:
            UserError: the key has as many as it may.
        """
        most, has = self._settings.max_models_per_key, self._live.models_of(owner)
        if has >= most:
            self._refused.labels("max_models_per_key").inc()
            expected = (
                f"at most {most} live training runs of a key (TINSMITH_MAX_MODELS_PER_KEY); end a session of yours"
            )
            raise invalid("model_seq_id", f"one more training run than the {has} that you have", expected)

    def check_tokens(self, record: Record) -> None:
        """Check that an operation's tokens may be in flight too.

        One that an accepted operation waits for is let in: what waits holds its tokens until it comes.

        Raises:
            Unavailable: not before others of the key are done (429).
        """
        most, held = self._settings.max_tokens_in_flight_per_key, self._usage.tokens(record)
        # Whatever its size, it is let in alone: else it could never be.
        if not held or held + record.tokens <= most or awaited(record, self._live):
            return
        self._refused.labels("max_tokens_in_flight_per_key").inc()
        kind = "samples" if record.kind is OpKind.SAMPLE else "passes"
        raise self._hold_back(
            record.owner,
            f"tokens: got {record.tokens} more on top of {held} in {kind} of yours that have no result yet, expected "
            f"at most {most} in flight for one key (TINSMITH_MAX_TOKENS_IN_FLIGHT_PER_KEY); wait for results before "
            "you send more",
        )

    async def check_stored(self, owner: str, field: str, size: int, freed: int = 0) -> None:
        """Check that a save may be added to what a key has stored.

        Args:
            field: what is refused.
            size: bytes that the save is expected to take.
            freed: bytes of what it replaces.

        Raises:
            UserError: it may not, until the owner has deleted something (403 where no future can tell it).
        """
        most = self._settings.max_stored_mb_per_key
        if most is None:
            return
        # A save that ends while the rows are read is in either; one that begins meanwhile is in the later figure.
        saving = self._usage.saving[owner]
        checkpoints, recordings = await self._checkpoints.size_of(owner), await self._recordings.size_of(owner)
        saving = max(saving, self._usage.saving[owner])
        if checkpoints + recordings + saving - freed + size <= most * 2**20:
            return
        self._refused.labels("max_stored_mb_per_key").inc()
        has = f"{_mib(checkpoints)} of checkpoints"
        has += f", {_mib(saving)} that are being saved" if saving else ""
        has += f", {_mib(recordings)} of recorded samples" if recordings else ""
        raise UserError(
            f"{field}: got a save of about {_mib(size)} beside what you have stored ({has}), expected at most {most} "
            "MiB for one key (TINSMITH_MAX_STORED_MB_PER_KEY): delete what you no longer need "
            "(`tinsmith checkpoint list`, `tinsmith checkpoint delete`)",
            403,
        )

    def check_refusal(self, record: Record) -> None:
        """Check that a refused request may be kept, so that its client learns of it by a future.

        Above the limit the request is answered itself, and nothing is kept of it. One with a place in a model's order
        has to be kept, or what comes after it would wait; its client is asked to wait instead.

        Raises:
            UserError: the reason of the refusal (400).
            Damaged: the same, where the service is at fault.
            Unavailable: it cannot be refused before earlier refusals are forgotten (429).
        """
        if self._usage.refusals[record.owner] < self._settings.max_refusals_per_key or awaited(record, self._live):
            return
        self._refused.labels("max_refusals_per_key").inc()
        reason = record.error or "refused"
        if record.seq_id is None:
            raise Damaged(reason) if record.category is RequestErrorCategory.SERVER else UserError(reason)
        raise Unavailable(
            f"refused: got {self._settings.max_refusals_per_key} refused requests of yours that are still kept, "
            f"expected fewer (TINSMITH_MAX_REFUSALS_PER_KEY); the last reason: {reason}",
            429,
            _RETRY_S,
        )


def awaited(record: Record, live: LiveState) -> bool:
    """Whether an accepted operation of the same model waits for this one."""
    run = live.runs.get(record.model_id or "")
    if run is None or record.seq_id is None:
        return False
    return any(seq > record.seq_id and other.state is State.PENDING for seq, other in run.ops.items())


def saved_bytes(info: BaseModelInfo, lora: LoraConfig, kind: str) -> int:
    """Return about how many bytes a save of an adapter takes: exact weights, a guess for what describes them."""
    on = {"attn": lora.train_attn, "mlp": lora.train_mlp, "unembed": lora.train_unembed}
    parameters = lora.rank * sum(number for part, number in info.lora_parameters.items() if on.get(part))
    return parameters * (8 if info.dtype == "float64" else 4) * _VECTORS[kind] + _FILES_OVERHEAD


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
