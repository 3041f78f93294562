"""What the scheduler hands to the engine and gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.sample_inputs import SampleInputs


class NotFinite(UserError):
    """A row's loss is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One datum of a forward or forward_backward.

    Attributes:
        model_id: the training run whose adapter computes it.
        datum: tokens and loss inputs.
        loss_fn: name of the loss.
        loss_fn_config: its options.
        backward: whether its gradient is added to the adapter's.
        reference: what a loss over pairs measures against: a folder of saved weights, or `base`; None stands for what
            the training run keeps.
    """

    model_id: str
    datum: Datum
    loss_fn: str
    loss_fn_config: Mapping[str, float | str]
    backward: bool
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class RowOutput:
    """The result of one `TrainRow`.

    Attributes:
        logprobs: of the targets, shape of the row's target_tokens; float32 (float64 in a float64 engine).
        loss: summed over the row; the loss of a pair is its chosen row's.
        metrics: what else is told of the row, by name with the rule that merges rows (`accuracy:mean`); both rows of a
            pair tell the same.
        ref_logprobs: as `logprobs`, under the reference; None where the loss has none.
    """

    logprobs: npt.NDArray[np.floating]
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    ref_logprobs: npt.NDArray[np.floating] | None = None


@dataclass(frozen=True, kw_only=True)
class SampleJob(SampleInputs):
    """One sampling request, to be answered from one snapshot.

    Attributes:
        request_id: returned with the result.
        sampler_id: the snapshot to sample from.
        owner: whose request it is; owners share the places of the batch.
    """

    request_id: str
    sampler_id: str
    owner: str = ""
