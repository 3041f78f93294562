"""Engines on tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tinsmith.engine.engine import Engine
from tinsmith.settings import Settings


def load_engine(folder: Path, *, dtype: str = "float32", name: str | None = None, **settings: Any) -> Engine:
    """Load an engine on the CPU; `settings` replace single settings."""
    defaults: dict[str, Any] = {"kv_cache_mb": 8, "adapter_mb": 256}
    return Engine.load(name or folder.name, str(folder), "cpu", dtype, Settings(**(defaults | settings)))


def randomise_adapter(engine: Engine, model_id: str, seed: int, scale: float = 0.05) -> None:
    """Give an adapter weights as after some training: every entry of A and B drawn anew, padding left zero."""
    adapter = engine.adapters.get(model_id)
    generator = torch.Generator().manual_seed(seed)
    for place in adapter.slot.pool.layout.places.values():
        rank = place.target.rank(adapter.slot.rank)
        for view in (place.a(adapter.master)[..., :rank, :], place.b(adapter.master)[..., :rank]):
            view.copy_(torch.randn(view.shape, generator=generator) * scale)
    adapter.publish()
