"""`Datum`: one training example, in the long form and the short form of the course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from tinsmith.types.errors import invalid
from tinsmith.types.facts.loss_table import INPUT_DTYPES
from tinsmith.types.model_input import ModelInput
from tinsmith.types.provenance import ProvenanceSpans, check_tiling
from tinsmith.types.tensor import TensorData

if TYPE_CHECKING:
    import torch

    ArrayLike = TensorData | npt.NDArray[Any] | torch.Tensor | Sequence[Any]
else:
    ArrayLike = Any


@dataclass(frozen=True, init=False)
class Datum:
    """One training example: position i of `model_input` predicts `target_tokens[i]`; the caller has shifted.

    Two forms make equal objects: `Datum(model_input=..., loss_fn_inputs={"target_tokens": ..., "weights": ...})` and
    `Datum(tokens=[...], targets=[...], weights=[...])`. Each array may be a list, numpy array, torch tensor or
    `TensorData`; lists are accepted for the keys whose dtype is known.

    Attributes:
        model_input_spans: where the tokens of `model_input` come from, run by run; None where that is not told.
        loss_fn_input_spans: the same of `target_tokens`. Both are given by `with_provenance`.

    Raises:
        UserError: a key given as list is unknown, a list is ragged or of wrong numbers, the forms are mixed, or spans
            are given for one of the two fields only.
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]
    model_input_spans: ProvenanceSpans | None
    loss_fn_input_spans: ProvenanceSpans | None

    def __init__(
        self,
        model_input: ModelInput | Sequence[int] | npt.NDArray[Any] | None = None,
        loss_fn_inputs: Mapping[str, ArrayLike] | None = None,
        model_input_spans: ProvenanceSpans | None = None,
        loss_fn_input_spans: ProvenanceSpans | None = None,
        *,
        tokens: Sequence[int] | npt.NDArray[Any] | None = None,
        targets: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        inputs: dict[str, Any] = dict(loss_fn_inputs or {})
        if model_input is None:
            if tokens is None:
                raise invalid("Datum.model_input", None, "model_input=, or tokens= with targets= and weights=")
            model_input = ModelInput.from_ints(tokens)  # pyright: ignore[reportArgumentType]
        elif tokens is not None:
            raise invalid("Datum.tokens", "both tokens and model_input", "one of them")
        if not isinstance(model_input, ModelInput):
            model_input = ModelInput.from_ints(model_input)  # pyright: ignore[reportArgumentType]
        # The short form's names are those of the course's slides; only the long form's travel.
        for key, value in (("target_tokens", targets), ("weights", weights)):
            if value is not None:
                if key in inputs:
                    raise invalid(f"Datum.loss_fn_inputs[{key!r}]", "given twice", "one value")
                inputs[key] = value
        if (model_input_spans is None) != (loss_fn_input_spans is None):
            missing = "model_input_spans" if model_input_spans is None else "loss_fn_input_spans"
            raise invalid(f"Datum.{missing}", None, "spans of both fields, or of neither")
        # The class is frozen, so that a batch that was submitted and is being sent cannot change; this is its making.
        object.__setattr__(self, "model_input", model_input)
        object.__setattr__(self, "loss_fn_inputs", {k: _tensor(k, v) for k, v in inputs.items()})
        object.__setattr__(self, "model_input_spans", model_input_spans)
        object.__setattr__(self, "loss_fn_input_spans", loss_fn_input_spans)

    def with_provenance(self, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans) -> Datum:
        """Return a copy that tells where its tokens come from.

        Args:
            model_input: spans over all tokens of `model_input`, in their order.
            loss_fn_inputs: spans over all positions of `loss_fn_inputs["target_tokens"]`, in their order.

        Raises:
            UserError: the spans of a field do not cover it exactly.
        """
        check_tiling("with_provenance.model_input", model_input, self.model_input.length)
        targets = self.loss_fn_inputs.get("target_tokens")
        if targets is not None and len(targets.shape) == 1:
            check_tiling("with_provenance.loss_fn_inputs", loss_fn_inputs, targets.shape[0])
        return Datum(self.model_input, self.loss_fn_inputs, model_input, loss_fn_inputs)

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, roughly: 4 per token and the tensors."""
        return 4 * self.model_input.length + sum(t.nbytes for t in self.loss_fn_inputs.values())


def _tensor(key: str, value: Any) -> TensorData:
    field = f"loss_fn_inputs[{key!r}]"
    if isinstance(value, TensorData):
        return value
    if isinstance(value, np.ndarray):
        return TensorData.from_numpy(_as_known(key, cast("npt.NDArray[Any]", value)))
    # A torch tensor, told by its methods: importing torch to ask would cost those who do not use it.
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        tensor = TensorData.from_torch(_torch_as_known(key, value))
        # Soft targets are mostly padding: the sparse form is what the wire has for them.
        return TensorData.sparse_if_smaller(tensor) if key in ("target_tokens", "weights") else tensor
    if key not in INPUT_DTYPES:
        raise invalid(field, type(value).__name__, f"an array or tensor (lists are accepted for {list(INPUT_DTYPES)})")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise invalid(field, "a ragged list", "rows of equal length") from error
    # numpy makes an empty list float64, which would be no tokens at all.
    if array.size == 0:
        array = array.astype(INPUT_DTYPES[key])
    if array.dtype.kind not in "iufb":
        raise invalid(field, f"a list of {array.dtype.name}", "a list of numbers, rows of equal length")
    return TensorData.from_numpy(_as_known(key, array))


def _as_known(key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give an array the dtype of its key: weights may be a mask, tokens may be unsigned."""
    dtype, kind = INPUT_DTYPES.get(key), array.dtype.kind
    if dtype == "float32" and kind in "iub":
        return array.astype(np.float32)
    if dtype == "int64" and kind == "u":
        return array.astype(np.int64)
    if dtype == "int64" and kind in "fb":
        raise invalid(f"loss_fn_inputs[{key!r}]", array.dtype.name, "whole numbers")
    return array


def _torch_as_known(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """`_as_known` for tensors."""
    dtype, floating = INPUT_DTYPES.get(key), tensor.is_floating_point()
    if dtype == "float32" and not floating and not tensor.is_complex():
        return tensor.float()
    if dtype == "int64" and floating:
        raise invalid(f"loss_fn_inputs[{key!r}]", str(tensor.dtype).removeprefix("torch."), "whole numbers")
    return tensor
