"""What a pass is reckoned to take, beside what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.targets.memory import peak_of
from tests.support.checkpoints import make_checkpoint
from tests.support.engines import load_engine
from tests.support.rows import make_row
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.engine.training.pass_memory import Load, PassMemory
from tinsmith.engine.training.training_pass import lanes_of
from tinsmith.types.params import LoraConfig

# Large enough that a pass takes a hundred MiB, beside which what a process grows by anyway is little.
SHAPE = {"vocab_size": 2048, "hidden_size": 256, "head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 4}
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
# Of the real peak. Below it a pass that is let through would be killed; above it a batch is cut that would have fitted.
LEAST, MOST = 0.85, 1.6
LENGTH = 128


def make_engine(folder: Path, family: str, *, dtype: str = "float32", rank: int = 32, **settings: object) -> Engine:
    extra = MIXTURE if family == "qwen3_moe" else {"intermediate_size": 768}
    make_checkpoint(folder, family, num_hidden_layers=4, **SHAPE, **extra)
    engine = load_engine(folder, dtype=dtype, logprob_chunk=256, **settings)
    engine.create_model("m", LoraConfig(rank=rank))
    train(engine, 2 * LENGTH, backward=True)
    return engine


def train(engine: Engine, tokens: int, backward: bool) -> None:
    rng = np.random.default_rng(0)
    rows = [make_row("m", "cross_entropy", LENGTH, rng, backward=backward) for _ in range(tokens // LENGTH)]
    assert all(isinstance(output, RowOutput) for output in engine.train_rows(rows))


def ratio(engine: Engine, tokens: int, backward: bool = True) -> float:
    """What is reckoned for a pass, as a part of what it takes."""
    peak = peak_of(lambda: train(engine, tokens, backward))
    layout = engine.adapters.get("m").slot.pool.layout
    lanes = lanes_of(engine.base, [LENGTH] * (tokens // LENGTH), engine.max_tokens_per_pass)
    return engine.pass_budget.memory.needed(Load(tokens, lanes, layout.bucket, layout.size, backward)) / peak


@pytest.mark.parametrize(
    ("family", "options"),
    [
        pytest.param("llama", {}, id="llama"),
        pytest.param("qwen3", {"rank": 128}, id="qwen3"),
        pytest.param("qwen3_moe", {}, id="experts"),
        # Most processors have no products in bfloat16.
        pytest.param("qwen3", {"dtype": "bfloat16"}, id="bfloat16", marks=pytest.mark.slow),
        pytest.param("qwen2", {"engine_threads": 2}, id="two lanes", marks=pytest.mark.slow),
    ],
)
def test_a_pass_takes_about_what_is_reckoned(family: str, options: dict[str, object], tmp_path: Path) -> None:
    engine = make_engine(tmp_path, family, **options)  # pyright: ignore[reportArgumentType]
    assert LEAST <= ratio(engine, 1024) <= MOST


@pytest.mark.slow
def test_a_pass_that_recomputes_its_layers_is_reckoned_as_such(tmp_path: Path) -> None:
    plain = make_engine(tmp_path / "one", "qwen3")
    engine = make_engine(tmp_path / "two", "qwen3", activation_checkpointing=True)
    # Holes in the heap are most of what so few layers take, and come out differently from run to run.
    assert 0.6 <= ratio(engine, 2048) <= 2
    load = Load(2048)
    assert engine.pass_budget.memory.needed(load) < plain.pass_budget.memory.needed(load) / 2


def test_every_part_counts(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, "llama")
    memory = engine.pass_budget.memory
    usual = Load(1024, rank=32, parameters=memory.parameters(32))
    needed = memory.needed(usual)
    assert memory.tensors(usual) < needed < 2 * memory.tensors(usual)
    assert needed > memory.needed(Load(512, rank=32, parameters=memory.parameters(32)))
    assert needed < memory.needed(Load(1024, rank=256, parameters=memory.parameters(256)))
    assert needed < memory.needed(Load(1024, lanes=2, rank=32, parameters=memory.parameters(32)))
    assert needed > 3 * memory.needed(Load(1024, backward=False))
    # The adapter's parameters, as the pool lays them out, less its padding.
    size = engine.adapters.get("m").slot.pool.layout.size
    head = next(t for t in engine.base.targets if t.kind == "unembed").parameters * 32
    assert size * 0.99 <= memory.parameters(32) + head <= size


def test_what_is_kept_does_not_depend_on_the_adapters_that_are_there(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, "qwen3", rank=256)
    again = PassMemory.of(engine.base, engine.pass_budget.memory.chunk, recomputes=False)
    assert again == engine.pass_budget.memory
