"""Two processes that share a base model's linear layers compute what one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.engine.model.tensor_parallel_worker import train
from tests.support.checkpoints import checkpoint

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_two_ranks_equal_one_process(family: str, tmp_path: Path) -> None:
    base, output = checkpoint(family), tmp_path / "found.safetensors"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "tests.engine.model.tensor_parallel_worker", str(base), str(output)]
    done = subprocess.run(
        [*launcher, *worker], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    found, wanted = load_file(output), train(base, None)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensor.any()
        assert float((found[name] - tensor).norm() / tensor.norm()) <= 1e-9, name
