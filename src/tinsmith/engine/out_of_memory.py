"""Memory that ran out: how it is recognised, and how it is told."""

from __future__ import annotations

_GIB = 2**30
_MIB = 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on the device."""
    # By name, because the scheduler, which asks as well, does not import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # The last one is torch's for the CPU, a plain RuntimeError.
    signs = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return any(sign in str(error) for sign in signs)


def size(count: float) -> str:
    """Return a number of bytes as people read it: `3.1 GiB`, `12.0 MiB`."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"
