"""Another device computes what a CPU computes: every way that has a branch of its own there is taken once.

On a CPU the same tests compare an engine with its twin, which shows that they ask for what an engine can give.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.rows import LOSS_CASES, make_row
from tests.support.sampling import make_job, random_prompt, run_all
from tinsmith.engine.adapters.trained_adapters import VECTORS
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.settings import Settings
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

CUDA = [pytest.mark.gpu, pytest.mark.skipif("not torch.cuda.is_available()")]
# On a CPU one family is enough.
PLACES = [
    ("cpu", "qwen3_moe"),
    pytest.param("cuda", "qwen3", marks=CUDA),
    pytest.param("cuda", "qwen3_moe", marks=CUDA),
]
ADAPTERS = {"a": LoraConfig(rank=8), "b": LoraConfig(rank=24, train_unembed=False), "c": LoraConfig(rank=3)}


def load(family: str, device: str, dtype: str, **settings: int) -> Engine:
    defaults = {"kv_cache_mb": 8, "adapter_mb": 64} | settings
    engine = Engine.load(family, str(checkpoint(family)), device, dtype, Settings(**defaults))  # pyright: ignore
    for seed, (model_id, lora) in enumerate(ADAPTERS.items()):
        engine.create_model(model_id, lora)
        adapter = engine.adapters.get(model_id)
        # Drawn here and moved, because devices draw other numbers.
        noise = torch.randn(adapter.master.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for place in adapter.slot.pool.layout.places.values():
            rank = place.target.rank(adapter.slot.rank)
            place.a(adapter.master)[..., :rank, :].copy_(0.05 * place.a(noise)[..., :rank, :])
            place.b(adapter.master)[..., :rank].copy_(0.05 * place.b(noise)[..., :rank])
        adapter.publish()
    return engine


def trained(engine: Engine) -> list[np.ndarray]:
    """Logprobs and losses of two steps with every loss, and what they leave behind."""
    found: list[np.ndarray] = []
    for step in range(2):
        rng = np.random.default_rng(step)
        lengths = (5, 33, 70, 12)
        rows = [make_row("abc"[i % 3], case, lengths[i % 4], rng) for i, case in enumerate(LOSS_CASES)]
        for output in engine.train_rows(rows):
            assert isinstance(output, RowOutput), output
            found += [output.logprobs, np.array(output.loss)]
        for model_id in ADAPTERS:
            metrics = engine.optim_step(model_id, AdamParams(learning_rate=1e-3, eps=1e-6, grad_clip_norm=1.0))
            found.append(np.array(metrics["grad_norm"]))
    return found + [engine.adapters.get(m).master.cpu().numpy() for m in ADAPTERS]


@pytest.mark.parametrize(("device", "family"), PLACES)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("bfloat16", 0.1)])
def test_training_is_that_of_a_cpu(device: str, family: str, dtype: str, bound: float) -> None:
    found, wanted = trained(load(family, device, dtype)), trained(load(family, "cpu", "float64"))
    for one, other in zip(found, wanted, strict=True):
        assert np.linalg.norm(one - other) <= bound * max(1e-3, float(np.linalg.norm(other)))


@pytest.mark.parametrize(("device", "family"), PLACES)
def test_samples_are_those_of_a_cpu(device: str, family: str) -> None:
    shapings = [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 9}, {"top_p": 0.8}, {"top_p": 0.5, "top_k": 30}]
    answers: list[dict[str, SampleResponse | Exception]] = []
    for place in (device, "cpu"):
        # Prompts in pieces, and too few blocks for all.
        engine = load(family, place, "float64", prefill_tokens=32, kv_block_size=8)
        engine.sampler.schedule.blocks.num_blocks = 24
        for model_id in ADAPTERS:
            engine.snapshot(model_id, model_id)
        jobs = [
            make_job(
                "abc"[i % 3], random_prompt(9 + 13 * i, i), 2, seed=i, request_id=f"r{i}", prompt_logprobs=True, **o
            )
            for i, o in enumerate(shapings)
        ]
        answers.append(run_all(engine, jobs))
    for request_id, other in answers[1].items():
        one = answers[0][request_id]
        assert isinstance(one, SampleResponse), one
        assert isinstance(other, SampleResponse), other
        for mine, wanted in zip(one.sequences, other.sequences, strict=True):
            assert mine.tokens == wanted.tokens
            np.testing.assert_allclose(mine.logprobs or [], wanted.logprobs or [], atol=1e-9)
        found, scores = one.prompt_logprobs_np, other.prompt_logprobs_np
        assert found is not None
        assert scores is not None
        np.testing.assert_allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize(("device", "family"), PLACES)
def test_adapters_go_to_host_memory_and_come_back(device: str, family: str) -> None:
    engine = load(family, device, "bfloat16")
    trained(engine)
    for model_id in ADAPTERS:
        adapter = engine.adapters.get(model_id)
        before, weights = [getattr(adapter, name).cpu().clone() for name in VECTORS], adapter.slot.flat.cpu().clone()
        engine.memory._park(adapter.slot)
        assert adapter.slot.row is None
        parked = [getattr(adapter, name) for name in VECTORS]
        assert all(v.device.type == "cpu" and v.is_pinned() == (device == "cuda") for v in parked)
        engine.adapters.ready(model_id)
        assert torch.equal(adapter.slot.flat.cpu(), weights)
        back = [getattr(adapter, name) for name in VECTORS]
        assert all(torch.equal(v.cpu(), w) and v.device.type == device for v, w in zip(back, before, strict=True))
