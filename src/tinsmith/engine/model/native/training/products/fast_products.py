"""Which products a model computes with."""

from __future__ import annotations

import torch

from tinsmith.engine.model.native.training.products.half_products import half_products
from tinsmith.engine.model.native.training.products.split_products import split_products
from tinsmith.engine.model.tiles.products import WHOLE, Products


def fast_products(device: torch.device, dtype: torch.dtype) -> Products:
    """Return the fastest products of a model there."""
    if device.type != "cpu":
        return WHOLE
    found = {torch.float32: split_products, torch.bfloat16: half_products}.get(dtype, lambda: None)()
    return found or WHOLE
