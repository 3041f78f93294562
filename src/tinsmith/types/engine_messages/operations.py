"""What the API process asks of an engine host; `host_events` holds what comes back.

Both sides see only these types, so neither imports the other, and the same operations travel inside one process or,
as `operation_codec` writes them, over a socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from tinsmith.types.digests import digest
from tinsmith.types.engine_messages.strict_fields import StrictFields
from tinsmith.types.errors import Damaged
from tinsmith.types.params import AdamParams, LoraConfig


class OpKind(StrEnum):
    """The name of each kind of operation, as the journal, the metrics and messages write it."""

    CREATE_MODEL = "create_model"
    LOAD_STATE = "load_state"
    FORWARD_BACKWARD = "forward_backward"
    OPTIM_STEP = "optim_step"
    SAVE_STATE = "save_state"
    SAVE_RECOVERY_POINT = "save_recovery_point"
    SAVE_SAMPLER = "save_sampler"
    SNAPSHOT = "snapshot"
    LOAD_SAMPLER = "load_sampler"
    RELEASE_SAMPLER = "release_sampler"
    RELEASE_MODEL = "release_model"
    SKIP = "skip"
    SAMPLE = "sample"


# -- what an operation does, one class for each kind ------------------------------------------------------------------
#
# Small things only, because they are journalled as JSON; what is bulky (data, prompts) is the body of the `Operation`.
# A new field needs a default, or a new version of the journal's rows: rows that were written without it will be read.


@dataclass(frozen=True, slots=True)
class CreateModel(StrictFields):
    """Make the adapter of a model.

    Attributes:
        lora: its shape, and the seed that it is drawn from.
    """

    kind: ClassVar[OpKind] = OpKind.CREATE_MODEL

    lora: LoraConfig


@dataclass(frozen=True, slots=True)
class LoadState(StrictFields):
    """Make a model from a saved state; with a place in the order (`seq_id`), load into the model that is there.

    Attributes:
        folder: the saved state, or a PEFT folder.
        optimizer: whether the optimizer's moments are loaded too; else they begin at zero.
        lora: the adapter's shape.
        next_seq: of a model that is made: its first operation, because the state holds those before.
    """

    kind: ClassVar[OpKind] = OpKind.LOAD_STATE

    folder: str
    optimizer: bool
    lora: LoraConfig
    next_seq: int = 1


@dataclass(frozen=True, slots=True)
class ForwardBackward(StrictFields):
    """Compute losses and add gradients, or losses only; which of them is in the body, the protobuf request.

    Attributes:
        reference: what the request names for preferences to be measured against: a folder, or `base`; None where it
            names nothing.
    """

    kind: ClassVar[OpKind] = OpKind.FORWARD_BACKWARD

    reference: str | None = None


@dataclass(frozen=True, slots=True)
class OptimStep(StrictFields):
    """Move the weights along the gradients since the last step, and clear those."""

    kind: ClassVar[OpKind] = OpKind.OPTIM_STEP

    adam: AdamParams


@dataclass(frozen=True, slots=True)
class SaveState(StrictFields):
    """Write weights and optimizer; the result is `{size_bytes}`."""

    kind: ClassVar[OpKind] = OpKind.SAVE_STATE

    folder: str


@dataclass(frozen=True, slots=True)
class SaveRecoveryPoint(StrictFields):
    """Write the state that a lost model is rebuilt from, once nothing before `after_seq` is left to do.

    It has no place in the order. It runs between steps, because gradients are no part of a state. So the state may
    hold more than was asked for: the result `{size_bytes, seq_id}` names the last operation that it holds.

    Attributes:
        folder: where to.
        after_seq: the operation that the state must hold.
    """

    kind: ClassVar[OpKind] = OpKind.SAVE_RECOVERY_POINT

    folder: str
    after_seq: int


@dataclass(frozen=True, slots=True)
class SaveSampler(StrictFields):
    """Write the weights as a PEFT folder; the result is `{size_bytes}`."""

    kind: ClassVar[OpKind] = OpKind.SAVE_SAMPLER

    folder: str


@dataclass(frozen=True, slots=True)
class TakeSnapshot(StrictFields):
    """Make a sampler of the weights as they are now. It is written to `folder` later, which `Flushed` tells."""

    kind: ClassVar[OpKind] = OpKind.SNAPSHOT

    sampler_id: str
    folder: str


@dataclass(frozen=True, slots=True)
class LoadSampler(StrictFields):
    """Make a sampler of a folder's weights; `folder` None stands for the base model itself."""

    kind: ClassVar[OpKind] = OpKind.LOAD_SAMPLER

    sampler_id: str
    folder: str | None


@dataclass(frozen=True, slots=True)
class ReleaseSampler(StrictFields):
    """Free a sampler's memory; samples from it that are not done fail."""

    kind: ClassVar[OpKind] = OpKind.RELEASE_SAMPLER

    sampler_id: str


@dataclass(frozen=True, slots=True)
class ReleaseModel(StrictFields):
    """Free a model's memory; what waits for the model fails."""

    kind: ClassVar[OpKind] = OpKind.RELEASE_MODEL


@dataclass(frozen=True, slots=True)
class Skip(StrictFields):
    """Take the place of an operation that took no effect, so that those after it need not wait.

    Attributes:
        failed_forward_backward: it was one, and failed: the next optim_step would lack gradients, so it fails too.
        failed_optim_step: it was one, and failed: that ended the step, so gradients are cleared and weights stay.
    """

    kind: ClassVar[OpKind] = OpKind.SKIP

    failed_forward_backward: bool = False
    failed_optim_step: bool = False


@dataclass(frozen=True, slots=True)
class Sample(StrictFields):
    """Draw completions; what is wanted is in the body, the JSON request."""

    kind: ClassVar[OpKind] = OpKind.SAMPLE

    sampler_id: str


# What a `match` is exhaustive over, and what the codec reads: a new kind is served once it stands here.
Work = (
    CreateModel
    | LoadState
    | ForwardBackward
    | OptimStep
    | SaveState
    | SaveRecoveryPoint
    | SaveSampler
    | TakeSnapshot
    | LoadSampler
    | ReleaseSampler
    | ReleaseModel
    | Skip
    | Sample
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on its way to an engine.

    Attributes:
        request_id: the id of the client's request, under which its future is kept; a fresh id of the same form where
            the service itself asks. An id runs at most once in the life of a host.
        work: what to do.
        base_model: which engine.
        model_id: the adapter that is trained; training operations of one model run in the order of `seq_id`.
        seq_id: the position in the model's order, from 1; None where no order is asked for.
        body: bulky input, of FORWARD_BACKWARD and SAMPLE only.
        body_path: the file that holds the body, in place of `body`.
        body_digest: of the body as it was written to that file; None where that is not known.
        owner: whose work it is, for fair shares: the owner's id, never a key; empty where there is one owner only.
        weight: of that owner's account, as it is now.
        replay: the outcome is recorded already; the operation runs for its effect. An ordered operation with `replay`
            also says that everything before it in its model's order is settled: what was not submitted never comes.
        company: a host was lost while it ran this one: so many operations at most, itself included, may be run
            together. None where nothing is suspected.
    """

    request_id: str
    work: Work
    base_model: str
    model_id: str | None = None
    seq_id: int | None = None
    body: bytes | None = None
    body_path: str | None = None
    body_digest: str | None = None
    owner: str = ""
    weight: float = 1.0
    replay: bool = False
    company: int | None = None

    @property
    def kind(self) -> OpKind:
        """The name of what it does."""
        return self.work.kind

    def read_body(self) -> bytes:
        """Return the body, from memory or from its file.

        Raises:
            Damaged: the file is gone or is not what was written.
        """
        if self.body is not None:
            return self.body
        if self.body_path is None:
            raise ValueError(f"operation {self.request_id} ({self.kind}) has no body")
        path = Path(self.body_path)
        try:
            body = path.read_bytes()
        except FileNotFoundError as error:
            raise Damaged(f"operation {self.request_id}: its journal file {path.name} is gone") from error
        if self.body_digest not in (None, digest(body)):
            raise Damaged(f"operation {self.request_id}: its journal file {path.name} is damaged")
        return body
