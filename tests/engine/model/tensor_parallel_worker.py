"""One rank of an engine whose base model is split as `transformers` plans it; started by `torch.distributed.run`.

Usage: tensor_parallel_worker.py BASE_FOLDER OUTPUT_FILE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers.distributed.configuration_utils import DistributedConfig

from tests.support.engines import randomise_adapter
from tests.support.rows import make_row
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.engine.model.loading.base_loading import load_base_model
from tinsmith.settings import Settings
from tinsmith.types.params import LoraConfig


def train(base: Path, parallel: DistributedConfig | None) -> dict[str, torch.Tensor]:
    """Run one packed pass of two adapters; return logprobs and gradients."""
    loaded = load_base_model("base", str(base), torch.device("cpu"), torch.float64, parallel)
    engine = Engine(loaded, Settings(kv_cache_mb=8))
    for seed, rank in enumerate((4, 8)):
        engine.create_model(f"m{seed}", LoraConfig(rank=rank))
        randomise_adapter(engine, f"m{seed}", seed)
    rng = np.random.default_rng(0)
    rows = [make_row(f"m{i % 2}", case, 9 + 7 * i, rng) for i, case in enumerate(("cross_entropy", "ppo", "dro"))]
    results = {f"grad.m{seed}": engine.adapters.get(f"m{seed}").grad for seed in range(2)}
    for i, output in enumerate(engine.train_rows(rows)):
        assert isinstance(output, RowOutput), output
        results[f"logprobs.{i}"] = torch.from_numpy(output.logprobs)
    return results


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = train(Path(sys.argv[1]), DistributedConfig(tp_plan="auto"))
    for tensor in found.values():
        mine = tensor.clone()
        dist.broadcast(mine, src=0)
        assert torch.equal(mine, tensor), "ranks differ"
    if dist.get_rank() == 0:
        save_file(found, sys.argv[2])
    dist.barrier()
    dist.destroy_process_group()
    # The meshes that transformers made keep gloo threads of their own, which abort an interpreter that shuts down.
    sys.stdout.flush()
    os._exit(0)
