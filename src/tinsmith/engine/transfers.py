"""Small tensors on their way to the device, which nobody waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers as a tensor on a device.

    A plain copy to an accelerator returns when all that was queued before it has been computed. In the middle of a
    decoding step the device then idles while Python catches up; from pinned memory the copy is queued like the rest.

    Args:
        values: numbers, a numpy array, or a tensor in host memory.
        device: where to.
        dtype: of the result; None takes that of the values, of a list NumPy's: int64 or float64.
    """
    # NumPy reads a list in a seventh of the time that torch takes for it.
    tensor = torch.as_tensor(np.array(values) if isinstance(values, list) else values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
