"""Which errors are the client's, which the service's, and which end the host."""

from __future__ import annotations

import pytest

from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.scheduler.failures import describe, is_fatal
from tinsmith.types.errors import RequestErrorCategory, UserError


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class AcceleratorError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "out_of_memory", "fatal"),
    [
        (MemoryError(), True, False),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True, False),
        (AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"), False, False),
        (ValueError("shapes do not match"), False, False),
        (UserError("rank: got 0, expected 1 to 256"), False, False),
    ],
)
def test_kinds_of_errors(error: Exception, out_of_memory: bool, fatal: bool) -> None:
    assert is_out_of_memory(error) == out_of_memory
    assert is_fatal(error) == fatal


def test_what_the_client_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told = describe(UserError("rank: got 0, expected 1 to 256"), "create_model of m")
    assert told == ("rank: got 0, expected 1 to 256", RequestErrorCategory.USER)
    assert not caplog.records
    message, category = describe(ZeroDivisionError("division by zero"), "optim_step of m (seq_id 3)")
    assert message == "optim_step of m (seq_id 3): ZeroDivisionError: division by zero"
    assert category == RequestErrorCategory.SERVER
    assert "out of memory" in describe(MemoryError("full"), "optim_step of m")[0]
    assert len(caplog.records) == 2
    assert all(record.exc_info for record in caplog.records)
