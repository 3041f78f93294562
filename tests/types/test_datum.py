"""Both forms of a datum are the same datum, whatever kind of array they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.model_input import ModelInput


@pytest.mark.row(32, 33, 34, 35)
@pytest.mark.parametrize("make", [list, np.asarray, torch.tensor])
def test_the_short_and_the_long_form_are_equal(make) -> None:
    short = Datum(tokens=make([1, 2, 3]), targets=make([2, 3, 4]), weights=make([0.0, 0.0, 1.0]))
    long = Datum(
        model_input=ModelInput.from_ints([1, 2, 3]),
        loss_fn_inputs={"target_tokens": make([2, 3, 4]), "weights": make([0.0, 0.0, 1.0])},
    )
    assert short == long
    assert short.loss_fn_inputs["target_tokens"].dtype == "int64"
    assert short.loss_fn_inputs["weights"].dtype == "float32"


def test_whole_weights_become_floats_and_fractional_targets_are_refused() -> None:
    assert Datum(tokens=[1], targets=[2], weights=[1]).loss_fn_inputs["weights"].tolist() == [1.0]
    with pytest.raises(UserError, match="whole numbers"):
        Datum(tokens=[1], targets=[2.5], weights=[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"Datum\.model_input"),
        ({"tokens": [1.5], "targets": [1]}, r"tokens\[0\]: got 1.5, expected a whole number"),
        ({"tokens": [1], "loss_fn_inputs": {"rewards": [1.0]}}, "rewards"),
        ({"tokens": [1, 2], "loss_fn_inputs": {"weights": [[1.0], [1.0, 2.0]]}}, "ragged"),
        ({"tokens": [1], "targets": [1], "loss_fn_inputs": {"target_tokens": [1]}}, "given twice"),
        ({"tokens": [1], "model_input": ModelInput.from_ints([1])}, "both tokens and model_input"),
    ],
)
def test_what_is_no_datum_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Datum(**arguments)


def test_mostly_empty_soft_targets_travel_sparse() -> None:
    weights = torch.zeros(4, 50)
    weights[1, 7] = 0.5
    datum = Datum(tokens=[1, 2, 3, 4], targets=torch.zeros(4, 50, dtype=torch.long), weights=weights)
    assert datum.loss_fn_inputs["weights"].is_sparse
    assert torch.equal(datum.loss_fn_inputs["weights"].to_torch(), weights)


@pytest.mark.row(33)
def test_masks_and_unsigned_tokens_are_numbers() -> None:
    wanted = Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[0.0, 1.0, 1.0])
    mask = np.array([False, True, True])
    tokens = np.array([1, 2, 3], dtype=np.uint16)
    for weights in (mask, mask.tolist(), mask.astype(np.uint8), torch.tensor(mask), torch.tensor([0, 1, 1])):
        datum = Datum(tokens=list(tokens), targets=tokens + np.uint16(1), weights=weights)
        assert datum == wanted
        assert all(type(token) is int for token in datum.model_input.to_ints())
    with pytest.raises(UserError, match=r"target_tokens.*'float32', expected whole numbers"):
        Datum(tokens=[1], targets=torch.tensor([2.5]), weights=[1])
    with pytest.raises(UserError, match=r"tokens\[0\]: got 1\.5"):
        Datum(tokens=[np.float64(1.5)], targets=[1], weights=[1])
