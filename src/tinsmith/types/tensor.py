"""`TensorData`: a dense or sparse (CSR) tensor of int64 or float32, as it travels on the wire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from tinsmith.types.errors import UserError, invalid

if TYPE_CHECKING:
    import torch

TensorDtype = Literal["int64", "float32"]

# More than any tensor of the protocol has.
_MOST_DIMENSIONS = 8
_NUMPY: dict[str, type[np.generic]] = {"int64": np.int64, "float32": np.float32}


class TensorData:
    """A tensor of at most two dimensions for `loss_fn_inputs` and `loss_fn_outputs`.

    Args:
        data: the values, flat and row-major; for a sparse tensor only the listed ones.
        dtype: `int64` or `float32`.
        shape: dimensions; None means one dimension. Required for a sparse tensor.
        sparse_crow_indices: CSR row pointers, int64, shape (rows + 1,).
        sparse_col_indices: CSR column indices, int64, shape (number of listed values,).

    Raises:
        UserError: values, shape and indices do not agree.
    """

    __slots__ = ("_values", "dtype", "shape", "sparse_col_indices", "sparse_crow_indices")

    def __init__(
        self,
        data: Sequence[int] | Sequence[float] | npt.NDArray[Any],
        dtype: TensorDtype,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: Sequence[int] | npt.NDArray[Any] | None = None,
        sparse_col_indices: Sequence[int] | npt.NDArray[Any] | None = None,
    ) -> None:
        if dtype not in _NUMPY:
            raise invalid("dtype", dtype, "'int64' or 'float32'")
        values = np.asarray(data)
        if values.size and dtype == "int64" and values.dtype.kind not in "iub":
            raise invalid("data", values.dtype.name, "whole numbers for dtype int64")
        # No copy where the array has the right dtype and layout already: a batch may be large.
        self._values: npt.NDArray[Any] = np.ascontiguousarray(values.reshape(-1).astype(_NUMPY[dtype], copy=False))
        self.dtype: TensorDtype = dtype
        if (sparse_crow_indices is None) != (sparse_col_indices is None):
            raise invalid("sparse_col_indices", None, "both sparse_crow_indices and sparse_col_indices, or neither")
        self.shape: list[int] = [int(n) for n in shape] if shape is not None else [int(self._values.size)]
        # Before their product is made: that of a million large dimensions takes as long as it is wide.
        if len(self.shape) > _MOST_DIMENSIONS or any(not 0 <= n < 2**63 for n in self.shape):
            expected = f"at most {_MOST_DIMENSIONS} dimensions of 64 bits that are not negative"
            raise invalid("shape", self.shape[: _MOST_DIMENSIONS + 1], expected)
        self.sparse_crow_indices: npt.NDArray[np.int64] | None = None
        self.sparse_col_indices: npt.NDArray[np.int64] | None = None
        if sparse_crow_indices is not None and sparse_col_indices is not None:
            self.sparse_crow_indices = np.asarray(sparse_crow_indices, dtype=np.int64).reshape(-1)
            self.sparse_col_indices = np.asarray(sparse_col_indices, dtype=np.int64).reshape(-1)
            self._check_sparse(shape is not None)
        elif self.cells != self._values.size:
            raise invalid("shape", self.shape, f"a shape of {self._values.size} values")

    def _check_sparse(self, has_shape: bool) -> None:
        crow, col = self.sparse_crow_indices, self.sparse_col_indices
        assert crow is not None
        assert col is not None
        if not has_shape or len(self.shape) != 2:
            raise invalid("shape", self.shape if has_shape else None, "[rows, columns] for a sparse tensor")
        rows, columns = self.shape
        if crow.size != rows + 1:
            raise invalid("sparse_crow_indices", f"{crow.size} entries", f"rows + 1 = {rows + 1} entries")
        if int(crow[0]) != 0 or int(crow[-1]) != self._values.size or bool(np.any(np.diff(crow) < 0)):
            raise invalid("sparse_crow_indices", crow.tolist()[:8], f"a rise from 0 to {self._values.size}")
        if col.size != self._values.size:
            raise invalid("sparse_col_indices", f"{col.size} entries", f"one for each of {self._values.size} values")
        if col.size and (int(col.min()) < 0 or int(col.max()) >= columns):
            raise invalid("sparse_col_indices", int(col.max()), f"columns from 0 to {columns - 1}")

    @property
    def data(self) -> list[Any]:
        """The values as a flat list (of a sparse tensor: the listed ones)."""
        return self._values.tolist()

    @property
    def values(self) -> npt.NDArray[Any]:
        """The values as a flat array, without a copy (of a sparse tensor: the listed ones)."""
        return self._values

    @property
    def is_sparse(self) -> bool:
        """Whether the tensor is stored as CSR."""
        return self.sparse_crow_indices is not None

    @property
    def cells(self) -> int:
        """Number of values of the dense form, which a sparse tensor only declares."""
        # Python's integers: a product of 64 bits wraps, and [2**32, 2**32] would pass for an empty tensor.
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, indices included."""
        indices = 0
        if self.sparse_crow_indices is not None and self.sparse_col_indices is not None:
            indices = self.sparse_crow_indices.nbytes + self.sparse_col_indices.nbytes
        return self._values.nbytes + indices

    def to_numpy(self, pad_value: float = 0) -> npt.NDArray[Any]:
        """Return a dense array of the tensor's shape; cells that a sparse tensor does not list hold `pad_value`."""
        if self.sparse_crow_indices is None or self.sparse_col_indices is None:
            return self._values.reshape(self.shape)
        # Row of each listed value: row r holds crow[r+1] - crow[r] of them.
        dense = np.full(self.shape, pad_value, dtype=_NUMPY[self.dtype])
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.sparse_crow_indices))
        dense[rows, self.sparse_col_indices] = self._values
        return dense

    def tolist(self, pad_value: float = 0) -> list[Any]:
        """Return nested lists of the tensor's shape."""
        return self.to_numpy(pad_value).tolist()

    def to_torch(self, pad_value: float = 0) -> torch.Tensor:
        """Return a dense torch tensor (a copy) of the tensor's shape."""
        import torch

        # Copied, because the array may be a read-only view of a message, which torch must not write to.
        return torch.as_tensor(self.to_numpy(pad_value).copy())

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> TensorData:
        """Make a tensor of a numpy array: signed integers become int64, floats float32.

        Raises:
            UserError: the array holds booleans, unsigned integers or objects.
        """
        kind = array.dtype.kind
        if kind == "i":
            return cls(array, "int64", array.shape)
        if kind == "f":
            return cls(array, "float32", array.shape)
        raise invalid("array.dtype", array.dtype.name, "signed integers or floats")

    @classmethod
    def from_torch(cls, tensor: torch.Tensor) -> TensorData:
        """Make a dense tensor of a torch tensor on any device; bfloat16 widens to float32."""
        import torch

        detached = tensor.detach().cpu()
        # numpy knows neither torch's sparse layouts nor bfloat16, in which every value is a float32, too.
        if detached.layout != torch.strided:
            return cls.from_torch_sparse(tensor)
        if detached.dtype == torch.bfloat16:
            detached = detached.float()
        return cls.from_numpy(detached.numpy())

    @classmethod
    def from_torch_sparse(cls, tensor: torch.Tensor, pad_value: float = 0) -> TensorData:
        """Make a CSR tensor of a two-dimensional torch tensor, dense where that is smaller."""
        import torch

        dense = tensor.detach().cpu()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        if dense.dtype == torch.bfloat16:
            dense = dense.float()
        return cls.sparse_if_smaller(cls.from_numpy(dense.numpy()), pad_value)

    @classmethod
    def sparse_if_smaller(cls, tensor: TensorData, pad_value: float = 0) -> TensorData:
        """Return the CSR form of a two-dimensional tensor whose cells are mostly `pad_value`, else the tensor."""
        # The wire's sparse form has two dimensions, and reads what is not listed as 0.
        if tensor.is_sparse or len(tensor.shape) != 2 or pad_value != 0:
            return tensor
        dense = tensor.to_numpy()
        listed = dense != 0
        crow = np.concatenate([[0], np.cumsum(listed.sum(axis=1))]).astype(np.int64)
        rows, cols = np.nonzero(listed)
        sparse = cls(dense[rows, cols], tensor.dtype, tensor.shape, crow, cols)
        # Each listed value brings an index of 8 bytes: a table that is half full is larger as CSR.
        return sparse if sparse.nbytes < tensor.nbytes else tensor

    def model_dump(self) -> dict[str, Any]:
        """Return the JSON form of the wire."""
        dumped: dict[str, Any] = {"data": self.data, "dtype": self.dtype, "shape": self.shape}
        if self.sparse_crow_indices is not None and self.sparse_col_indices is not None:
            dumped["sparse_crow_indices"] = self.sparse_crow_indices.tolist()
            dumped["sparse_col_indices"] = self.sparse_col_indices.tolist()
        return dumped

    @classmethod
    def model_validate(cls, value: Any) -> TensorData:
        """Read the JSON form of the wire.

        Raises:
            UserError: a part is missing or does not agree with the others.
        """
        if isinstance(value, cls):
            return value
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if "data" not in fields or "dtype" not in fields:
            raise invalid("tensor", list(fields) or "something else", "an object with data and dtype")
        # Further fields are left alone, as in every body of the protocol.
        known = {"data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices"}
        try:
            return cls(**{key: part for key, part in fields.items() if key in known})
        except UserError:
            raise
        except (TypeError, ValueError, OverflowError) as error:  # whatever else JSON may hold instead of numbers
            raise UserError(f"tensor: got parts that are no arrays ({error}), expected lists of numbers") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return (
            self.dtype == other.dtype
            and self.shape == other.shape
            and np.array_equal(self.to_numpy(), other.to_numpy(), equal_nan=self.dtype == "float32")
        )

    # Equal by its values, which can be changed through `values`, so it must not be a key.
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    def __repr__(self) -> str:
        layout = "sparse " if self.is_sparse else ""
        return f"TensorData({layout}{self.dtype}, shape={self.shape})"
