"""Adapters: first weights, targets, memory accounting, and a base that never changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkpoints import FAMILIES, SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tinsmith.engine.adapters.heap import Heap
from tinsmith.engine.adapters.layouts import Target
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams, LoraConfig


def base_tensors(engine: Engine) -> dict[str, torch.Tensor]:
    tensors = {**engine.base.decoder.state_dict(), "head": engine.base.head.weight}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def logprobs(engine: Engine, model_id: str) -> np.ndarray:
    rows = [make_row(model_id, "cross_entropy", 40, np.random.default_rng(3), backward=False)]
    (output,) = engine.train_rows(rows)
    assert isinstance(output, RowOutput)
    return output.logprobs


@pytest.mark.row(1, 31)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_base_stays_bit_identical_and_first_forward_equals_it(family: str, tied: bool) -> None:
    engine = load_engine(checkpoint(family, tied))
    before = base_tensors(engine)
    engine.create_model("zero", LoraConfig(rank=8))
    engine.adapters.get("zero").master.zero_()
    engine.adapters.get("zero").publish()
    engine.create_model("new", LoraConfig(rank=8))
    assert engine.adapters.get("new").master.any()
    first = logprobs(engine, "new")
    assert np.array_equal(first, logprobs(engine, "zero"))
    engine.train_rows([make_row("new", "cross_entropy", 40, np.random.default_rng(3))])
    engine.optim_step("new", AdamParams(learning_rate=1e-2))
    assert not np.array_equal(first, logprobs(engine, "new"))
    after = base_tensors(engine)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.row(31)
def test_first_weights() -> None:
    engine = load_engine(checkpoint("qwen3_moe"))
    for model_id, rank, seed in (("a", 8, 1), ("again", 8, 1), ("other", 8, 2), ("odd", 5, 1)):
        engine.create_model(model_id, LoraConfig(rank=rank, seed=seed))
    engine.create_model("unembed only", LoraConfig(rank=8, seed=1, train_attn=False, train_mlp=False))
    a, again, other, odd = (engine.adapters.get(m) for m in ("a", "again", "other", "odd"))
    assert torch.equal(a.master, again.master)
    assert not torch.equal(a.master, other.master)
    for place in a.slot.pool.layout.places.values():
        values, bound = place.a(a.master), place.target.inputs**-0.5
        assert not place.b(a.master).any()
        assert values.abs().max() <= bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.2)
        own = place.target.rank(5)
        assert not place.a(odd.master)[..., own:, :].any()
        assert (place.a(odd.master)[..., :own, :] != 0).all()
    alone = engine.adapters.get("unembed only")
    (head,) = alone.slot.pool.layout.places.values()
    assert torch.equal(head.a(alone.master), a.slot.pool.layout.places["lm_head"].a(a.master))


def test_a_run_without_a_seed_starts_the_same_when_it_is_replayed() -> None:
    first, second = load_engine(checkpoint("llama")), load_engine(checkpoint("llama"))
    first.create_model("run", LoraConfig(rank=8))
    second.create_model("neighbour", LoraConfig(rank=8))
    second.create_model("run", LoraConfig(rank=8))
    assert torch.equal(first.adapters.get("run").master, second.adapters.get("run").master)
    assert not torch.equal(second.adapters.get("neighbour").master, second.adapters.get("run").master)


@pytest.mark.row(1)
def test_parameter_counts() -> None:
    linear = Target("q_proj", "attn", 4096, 4096)
    assert linear.rank(32) * (linear.inputs + linear.outputs) == 262_144
    experts = Target("experts.down_proj", "mlp", 768, 2048, experts=128, experts_per_token=8)
    assert [experts.rank(r) for r in (1, 4, 8, 32, 256)] == [1, 1, 1, 4, 32]


@pytest.mark.row(1)
@pytest.mark.parametrize(
    ("switches", "wanted"),
    [
        ({"train_mlp": False, "train_unembed": False}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"train_attn": False, "train_unembed": False}, {"gate_proj", "up_proj", "down_proj"}),
        ({"train_attn": False, "train_mlp": False}, {"lm_head"}),
    ],
)
def test_switches(switches: dict[str, bool], wanted: set[str]) -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=4, **switches))
    places = engine.adapters.get("a").slot.pool.layout.places
    assert {name.rpartition(".")[2] for name in places} == wanted


@pytest.mark.row(6)
@pytest.mark.parametrize("rank", [1, 8, 9, 256])
def test_ranks(rank: int) -> None:
    engine = load_engine(checkpoint("qwen2"))
    engine.create_model("a", LoraConfig(rank=rank))
    randomise_adapter(engine, "a", 0)
    engine.train_rows([make_row("a", "cross_entropy", 20, np.random.default_rng(0))])
    adapter = engine.adapters.get("a")
    engine.optim_step("a", AdamParams(learning_rate=1e-2, weight_decay=0.1))
    for place in adapter.slot.pool.layout.places.values():
        assert (place.b(adapter.master)[..., :rank].abs().sum(0) > 0).all()
        assert not place.a(adapter.master)[..., rank:, :].any()
        assert not place.b(adapter.master)[..., rank:].any()


@pytest.mark.row(6, 36)
@pytest.mark.parametrize("rank", [0, 257])
def test_ranks_out_of_range(rank: int) -> None:
    engine = load_engine(checkpoint("llama"))
    with pytest.raises(UserError, match=rf"lora_config.rank: got {rank}, expected 1 to 256"):
        engine.create_model("a", LoraConfig(rank=rank))


def fill_up(take: Callable[[int], None]) -> int:
    """Take memory until it is refused; return how often it was granted."""
    for i in range(1000):
        try:
            take(i)
        except UserError as error:
            wanted = r"needs .* MiB, expected at most the .* MiB left of TINSMITH_ADAPTER_MB = 4 MiB"
            assert re.search(wanted, error.message)
            return i
    raise AssertionError("memory without end")


def test_memory_is_granted_and_given_back() -> None:
    engine = load_engine(checkpoint("llama"), adapter_mb=4, host_adapter_mb=0)
    made = fill_up(lambda i: engine.create_model(f"m{i}", LoraConfig(rank=16)))
    assert made > 2
    used = engine.adapters.used
    size = engine.adapters.get("m0").slot.pool.layout.size
    assert made * 20 * size <= used <= 4 * 2**20
    samplers = fill_up(lambda i: engine.snapshot("m0", f"s{i}"))
    full = engine.adapters.used
    assert 4 * 2**20 - 4 * size < full <= 4 * 2**20
    engine.remove_model("m1")
    assert engine.adapters.used == full - 16 * size
    engine.snapshot("m0", f"s{samplers}")
    assert engine.adapters.used == full - 16 * size
    for i in range(made):
        if i != 1:
            engine.remove_model(f"m{i}")
    for i in range(samplers + 1):
        engine.release_sampler(f"s{i}")
    assert engine.adapters.used == 0


def test_a_pool_gives_back_what_its_sessions_took_while_one_goes_on() -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("stays", LoraConfig(rank=8))
    randomise_adapter(engine, "stays", 0)
    wanted, alone = logprobs(engine, "stays"), engine.adapters.used
    pool = engine.adapters.get("stays").slot.pool
    for i in range(20):
        engine.create_model(f"m{i}", LoraConfig(rank=8))
        engine.snapshot(f"m{i}", f"s{i}")
    assert pool.capacity >= 41
    for i in range(20):
        engine.remove_model(f"m{i}")
        engine.release_sampler(f"s{i}")
    assert pool.capacity == 1
    assert engine.adapters.used == alone
    assert pool.weights.untyped_storage().nbytes() == pool.slot_bytes
    assert np.array_equal(logprobs(engine, "stays"), wanted)
    engine.create_model("new", LoraConfig(rank=8, seed=1))
    engine.train_rows([make_row("new", "cross_entropy", 40, np.random.default_rng(3))])
    engine.optim_step("new", AdamParams(learning_rate=1e-2))
    assert np.array_equal(logprobs(engine, "stays"), wanted)


def test_a_pool_is_not_copied_for_every_run_that_ends() -> None:
    engine = load_engine(checkpoint("llama"))
    for i in range(8):
        engine.create_model(f"m{i}", LoraConfig(rank=8))
    pool = engine.adapters.get("m0").slot.pool
    capacity, storage = pool.capacity, pool.weights.data_ptr()
    for i in (7, 6, 0, 5):
        engine.remove_model(f"m{i}")
        engine.create_model(f"again {i}", LoraConfig(rank=8))
    assert (pool.capacity, pool.weights.data_ptr()) == (capacity, storage)


def test_freed_memory_goes_back_to_the_system_once_it_is_much() -> None:
    trims: list[int] = []
    heap = Heap(lambda: trims.append(1))
    for _ in range(31):
        heap.freed(2**20)
        heap.tidy()
    assert not trims
    heap.freed(2**20)
    heap.tidy()
    heap.tidy()
    assert len(trims) == 1


def test_growing_a_pool_keeps_the_others() -> None:
    engine = load_engine(checkpoint("qwen3"))
    wanted: dict[str, np.ndarray] = {}
    for i in range(5):
        engine.create_model(f"m{i}", LoraConfig(rank=8))
        randomise_adapter(engine, f"m{i}", i)
        wanted[f"m{i}"] = logprobs(engine, f"m{i}")
    engine.remove_model("m2")
    engine.create_model("m5", LoraConfig(rank=8))
    for i in (0, 1, 3, 4):
        assert np.array_equal(logprobs(engine, f"m{i}"), wanted[f"m{i}"])


def test_a_pool_grows_by_rows_of_zeros() -> None:
    engine = load_engine(checkpoint("qwen3"))
    engine.create_model("m", LoraConfig(rank=8))
    pool = engine.adapters.get("m").slot.pool
    before = pool.weights.clone()
    assert before.any()
    # Of the size that is asked for, so that the heap has memory that was written to.
    torch.full((len(before) + 3, pool.layout.size), torch.nan)
    pool.grow(3)
    assert torch.equal(pool.weights[: len(before)], before)
    assert pool.weights.shape == (len(before) + 3, pool.layout.size)
    assert not pool.weights[len(before) :].any()


@pytest.mark.row(36)
def test_unknown_and_repeated_ids() -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8))
    with pytest.raises(UserError, match="model_id: got 'a', expected an id that is not in use"):
        engine.create_model("a", LoraConfig(rank=8))
    for call in (engine.remove_model, engine.clear_gradients, lambda m: engine.save_state(m, Path("nowhere"))):
        with pytest.raises(UserError, match="model_id: got 'b', expected a training run"):
            call("b")
    with pytest.raises(UserError, match="sampler_id: got 's', expected a sampler"):
        engine.release_sampler("s")


def test_snapshots_are_frozen_and_outlive_their_release_while_in_use() -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8))
    randomise_adapter(engine, "a", 0)
    engine.snapshot("a", "s")
    engine.snapshot("a", "t")
    engine.load_sampler("base", None)
    snapshot = engine.snapshots.acquire("s")
    assert snapshot.slot is not None
    frozen = snapshot.slot.flat.clone()
    assert torch.equal(frozen, engine.adapters.get("a").slot.flat)
    randomise_adapter(engine, "a", 1)
    assert torch.equal(snapshot.slot.flat, frozen)
    versions = [engine.snapshots.get(s).version for s in ("s", "t", "base")]
    assert len(set(versions)) == 3
    assert versions[2] == 0
    engine.release_sampler("s")
    engine.create_model("b", LoraConfig(rank=8))
    assert torch.equal(snapshot.slot.flat, frozen)
    used = snapshot.slot.pool
    engine.snapshots.done(snapshot)
    assert snapshot.slot is None
    assert used.has_room


def test_snapshots_written_in_the_background_while_others_come_and_go(tmp_path: Path) -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8))
    randomise_adapter(engine, "a", 0)
    wanted = engine.adapters.get("a").slot.flat.clone()
    with ThreadPoolExecutor(3) as threads:
        written = []
        for i in range(30):
            engine.snapshot("a", f"s{i}")
            engine.snapshots.acquire(f"s{i}")
            written.append(threads.submit(engine.write_snapshot, f"s{i}", tmp_path / f"s{i}"))
            if i >= 5:
                written[i - 5].result()
                engine.snapshots.done(engine.snapshots.get(f"s{i - 5}"))
                engine.release_sampler(f"s{i - 5}")
    for i in (0, 13, 29):
        engine.load_sampler("loaded", tmp_path / f"s{i}")
        slot = engine.snapshots.get("loaded").slot
        assert slot is not None
        assert torch.equal(slot.flat, wanted)
    engine.release_sampler("loaded")
    for i in range(25, 30):
        engine.snapshots.done(engine.snapshots.get(f"s{i}"))
        engine.release_sampler(f"s{i}")
    engine.remove_model("a")
    assert engine.adapters.used == 0


def test_info() -> None:
    info = load_engine(checkpoint("qwen3_moe", True), name="org/name").info
    assert (info.name, info.architecture, info.model_type) == ("org/name", "Qwen3MoeForCausalLM", "qwen3_moe")
    assert (info.vocab_size, info.hidden_size) == (SHAPE.vocab_size, SHAPE.hidden_size)
    assert (info.num_layers, info.context_length) == (SHAPE.layers, SHAPE.context_length)
    assert info.is_moe
    assert info.tied_embeddings
    assert info.eos_token_ids == [258]
