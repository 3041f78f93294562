"""Tensors keep their values in dense and sparse form and refuse what does not agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinsmith.types.errors import UserError
from tinsmith.types.tensor import TensorData

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]),
)


@given(MATRICES)
def test_the_sparse_form_holds_the_same_values(dense: np.ndarray) -> None:
    tensor = TensorData.from_torch_sparse(torch.from_numpy(dense))
    assert np.array_equal(tensor.to_numpy(), dense)
    assert tensor.nbytes <= dense.nbytes
    assert TensorData.model_validate(tensor.model_dump()) == tensor


def test_cells_that_are_not_listed_take_the_pad_value() -> None:
    tensor = TensorData([5], "int64", [2, 2], [0, 1, 1], [1])
    assert tensor.tolist(pad_value=-1) == [[-1, 5], [-1, -1]]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.asarray([1, 2], np.int8), "int64"),
        (np.asarray([1.0], np.float64), "float32"),
        (torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "float32"),
        (torch.tensor([[1, 2]]), "int64"),
    ],
)
def test_numbers_become_one_of_the_two_wire_dtypes(array: np.ndarray | torch.Tensor, dtype: str) -> None:
    tensor = TensorData.from_torch(array) if isinstance(array, torch.Tensor) else TensorData.from_numpy(array)
    assert tensor.dtype == dtype
    assert tensor.tolist() == array.tolist()
    assert torch.equal(tensor.to_torch(), torch.as_tensor(tensor.tolist()).to(tensor.to_torch().dtype))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], "float32", [3]), r"shape: got \[3\], expected a shape of 2 values"),
        (([1.5], "int64"), "data: got 'float64', expected whole numbers"),
        (([1], "int8"), "dtype: got 'int8'"),
        (([1.0], "float32", [1, 2], [0, 1], None), "sparse_col_indices"),
        (([1.0], "float32", [1, 2], [0, 2], [0]), "sparse_crow_indices"),
        (([1.0], "float32", [1, 2], [0, 1], [2]), "columns from 0 to 1"),
        (([1.0], "float32", None, [0, 1], [0]), r"shape: got None, expected \[rows, columns\]"),
    ],
)
def test_parts_that_do_not_agree_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TensorData(*arguments)


@pytest.mark.parametrize("array", [np.asarray([True]), np.asarray([1], np.uint8), np.asarray(["a"])])
def test_arrays_of_other_kinds_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"array\.dtype"):
        TensorData.from_numpy(array)
