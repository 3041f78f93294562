"""From settings to a device, a compute dtype, and the memory that adapters may take."""

from __future__ import annotations

import os

import torch

from tinsmith.settings import Settings
from tinsmith.types.errors import invalid
from tinsmith.types.names.devices import DTYPES as DTYPE_NAMES
from tinsmith.types.names.devices import check_device_name, check_dtype_name

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}

# Where the settings are silent. A limit, not a reservation: pools grow as adapters come, while the KV cache takes its
# share (`sampling.cache.kv_cache`) of what is free when sampling begins.
_CUDA_SHARE = 0.3
_CPU_MIB = 4096


def resolve_device(device: str) -> torch.device:
    """Turn a setting into a device.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device_name("device", device)
    kind, _, index = device.partition(":")
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
    check_dtype_name("dtype", dtype)
    return DTYPES[dtype]


def host_adapter_budget(device: torch.device, settings: Settings) -> int:
    """Bytes of host memory for adapters that find no room on the device; see `Settings.host_adapter_mb`."""
    if settings.host_adapter_mb is not None:
        return settings.host_adapter_mb * 2**20
    if device.type == "cuda" and hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _CUDA_SHARE)
    return _CPU_MIB * 2**20


def adapter_budget(device: torch.device, settings: Settings) -> int:
    """Bytes that adapters and their training states may take; see `Settings.adapter_mb`."""
    if settings.adapter_mb is not None:
        return settings.adapter_mb * 2**20
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _CUDA_SHARE)
    return _CPU_MIB * 2**20
