"""From settings to a device, a compute dtype, and the memory that adapters may take."""

from __future__ import annotations

import torch

from tinsmith.settings import Settings
from tinsmith.types.errors import invalid

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}

# Where the settings are silent. A limit, not a reservation: pools grow as adapters come, while the KV cache takes its
# share (`sampling.kv_cache`) of what is free when sampling begins.
_CUDA_SHARE = 0.3
_CPU_MIB = 4096


def resolve_device(device: str) -> torch.device:
    """Turn a setting into a device.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise invalid("device", device, "auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise invalid("device", device, f"one of the {torch.cuda.device_count()} CUDA devices of this machine, or cpu")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Turn a setting into the compute dtype: float32 on a CPU and bfloat16 on CUDA unless said otherwise.

    Raises:
        UserError: the name is unknown.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise invalid("dtype", dtype, f"auto or one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def adapter_budget(device: torch.device, settings: Settings) -> int:
    """Bytes that adapters and their training states may take; see `Settings.adapter_mb`."""
    if settings.adapter_mb is not None:
        return settings.adapter_mb * 2**20
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _CUDA_SHARE)
    return _CPU_MIB * 2**20
