"""A step waits for the device once, to fetch the ids: Python that asks earlier leaves an accelerator idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import make_job, random_prompt
from tinsmith.engine.engine import Engine
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.engine.sampling.drawing import distribution
from tinsmith.types.params import LoraConfig

# What has a result of a size or a value that only the device knows.
_ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select", "aten::_unique2"}


class Asked(TorchDispatchMode):
    """Counts operations that have to wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in _ASKING:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def _counted(name: str, plain: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def counted(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        counts[name] += 1
        return plain(self, *args, **options)

    return counted


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what waits for the device, that is for tensors in host memory too."""
    with monkeypatch.context() as patch, Asked() as asked:
        for name in ("tolist", "item", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, _counted(name, getattr(torch.Tensor, name), asked.counts))
        yield asked.counts


def running(engine: Engine, **options: Any) -> None:
    """Bring a few requests so far that each step decodes all of them."""
    for i, sampler_id in enumerate(("a", "b", "a", "base")):
        prompt = random_prompt(5 + 3 * i, i)
        engine.sampler.add(make_job(sampler_id, prompt, 2, max_tokens=40, request_id=f"r{i}", **options))
    while len(engine.sampler.schedule.running) < 8:
        engine.sampler.step()
    engine.sampler.step()


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def engine(request: pytest.FixtureRequest) -> Engine:
    # As on an accelerator, which has no parts in C.
    engine = load_engine(checkpoint(request.param), native_kernels=False)
    engine.load_sampler("base", None)
    for seed, name in enumerate("ab"):
        engine.create_model(name, LoraConfig(rank=8))
        randomise_adapter(engine, name, seed)
        engine.snapshot(name, name)
    # And which gathers blocks.
    engine.sampler._stream = DecodeStream(engine.sampler.cache, in_rows=False)
    return engine


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({"temperature": 0.7}, {}),
        ({"temperature": 0.0}, {}),
        ({"top_k": 5}, {}),
        # How wide the nuclei are is known when they have been looked at.
        ({"top_p": 0.9}, {"aten::_local_scalar_dense": 1}),
        ({"top_p": 0.9, "top_k": 20}, {"aten::_local_scalar_dense": 1}),
        ({"topk_sample_logprobs": 3}, {"aten::nonzero": 1, "tolist": 2}),
    ],
)
def test_a_decode_step_asks_for_its_ids_alone(
    engine: Engine, options: dict[str, Any], more: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "_is_near", lambda x: False)
    running(engine, **options)
    with waits(monkeypatch) as found:
        engine.sampler.step()
    for i in range(4):
        engine.sampler.cancel(f"r{i}")
    # A mixture of experts asks in each layer who goes where.
    layers = engine.info.num_layers if engine.info.is_moe else 0
    assert found == Counter(tolist=1 + layers) + Counter(more)
