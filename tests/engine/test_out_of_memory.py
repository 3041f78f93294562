"""Memory that runs out elsewhere than in a pass: what fails leaves nothing half done, and everybody goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tests.support.sampling import make_job, random_prompt, run_all, sample
from tinsmith.engine.adapters import memory as slot_memory
from tinsmith.engine.adapters import optimizer, trained_adapters
from tinsmith.engine.adapters.slots import Pool
from tinsmith.engine.adapters.trained_adapters import VECTORS
from tinsmith.engine.checkpoints import adapter_folders, whole_folders
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.sampling.cache import kv_cache
from tinsmith.engine.sampling.cache.kv_cache import KVCache, KVShape, affordable_blocks
from tinsmith.settings import Settings
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

ADAM = AdamParams(learning_rate=1e-2)
CPU = torch.device("cpu")


def make_engine(**settings: Any) -> Engine:
    engine = load_engine(checkpoint("qwen3"), **settings)
    for seed, model_id in enumerate("ab"):
        engine.create_model(model_id, LoraConfig(rank=8, seed=seed))
        randomise_adapter(engine, model_id, seed)
    train(engine, "a", "b")
    return engine


def train(engine: Engine, *model_ids: str) -> None:
    rng = np.random.default_rng(0)
    outputs = engine.train_rows([make_row(m, "cross_entropy", 20, rng) for m in model_ids])
    assert all(isinstance(output, RowOutput) for output in outputs)


def state(engine: Engine) -> list[torch.Tensor]:
    adapters = [engine.adapters.get(m) for m in "ab"]
    return [x.clone() for a in adapters for x in (*(getattr(a, name) for name in VECTORS), a.slot.flat)]


def taken(engine: Engine) -> tuple[int, int]:
    """Slots and bytes that are in use."""
    return len(engine.memory._slots), sum(slot.state_bytes + slot.pool.slot_bytes for slot in engine.memory._slots)


def no_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("no memory left")


def on_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose n-th call finds no memory."""
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return no_memory() if calls == number else function(*args, **kwargs)

    return failing


@contextmanager
def nothing_changes(engine: Engine) -> Iterator[None]:
    """What is done here fails for want of memory, and leaves adapters and the memory that is taken as they were."""
    before, held = state(engine), taken(engine)
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        yield
    assert taken(engine) == held
    assert all(map(torch.equal, state(engine), before))


def test_an_optimizer_step_is_taken_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calm = make_engine(), make_engine()
    with monkeypatch.context() as patch, nothing_changes(engine):
        patch.setattr(optimizer.torch, "full", no_memory)
        engine.optim_step("a", ADAM)
    assert engine.optim_step("a", ADAM) == calm.optim_step("a", ADAM)
    assert all(map(torch.equal, state(engine), state(calm)))


def test_a_step_takes_no_memory_after_its_first_change() -> None:
    """So that the test above stands for every allocation: what else is made is as small as the norm's blocks."""
    engine = make_engine()
    adapter = engine.adapters.get("a")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        engine.optim_step("a", ADAM)
    found = profile.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    sizes = [event.nbytes() for event in found if event.name() == "[memory]"]
    assert 0 < max(sizes) < adapter.master.nbytes / 100


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_model_that_finds_no_memory_for_its_state_is_not_made(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    with monkeypatch.context() as patch, nothing_changes(engine):
        patch.setattr(trained_adapters.torch, "zeros", on_call(number, torch.zeros))
        engine.create_model("c", LoraConfig(rank=8))
    assert engine.adapters.model_ids() == ["a", "b"]
    engine.create_model("c", LoraConfig(rank=8))
    train(engine, "a", "b", "c")


@pytest.mark.parametrize("where", ["initialise", "grow"])
def test_a_model_is_made_whole_or_not_at_all(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    with monkeypatch.context() as patch, nothing_changes(engine):
        if where == "grow":
            patch.setattr(Pool, "grow", no_memory)
        else:
            patch.setattr(trained_adapters, "initialise", no_memory)
        engine.create_model("c", LoraConfig(rank=16))
    assert engine.adapters.model_ids() == ["a", "b"]
    engine.create_model("c", LoraConfig(rank=16))
    train(engine, "a", "c")
    assert engine.adapters.get("c").grad.any()


def test_a_model_for_which_the_machine_has_no_memory_is_refused_with_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine()
    with monkeypatch.context() as patch:
        patch.setattr(slot_memory, "free_memory", lambda device, wanted=0: 300 * 2**10)
        with pytest.raises(MemoryError, match=r"an adapter of rank 64 needs \d+\.\d MiB, 0\.3 MiB are free on this"):
            engine.create_model("c", LoraConfig(rank=64))
        # One that fits is made, in a pool that grows by no more than fits.
        layout = engine.adapters.get("a").slot.pool
        grown = layout.slot_bytes * (layout.capacity + 1)
        patch.setattr(slot_memory, "free_memory", lambda device, wanted=0: grown + 16 * layout.layout.size)
        engine.create_model("c", LoraConfig(rank=8))
    assert engine.adapters.model_ids() == ["a", "b", "c"]
    train(engine, "a", "b", "c")


def test_snapshots_and_loads_are_taken_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    engine.save_sampler("a", tmp_path / "weights")
    engine.optim_step("b", ADAM)
    train(engine, "b")
    engine.save_state("b", tmp_path / "state")
    for number in (1, 2, 3):
        for model_id in ("a", "c"):  # one that lives, one that is to be made
            with monkeypatch.context() as patch, nothing_changes(engine):
                patch.setattr(adapter_folders, "import_tensors", on_call(number, adapter_folders.import_tensors))
                engine.load_state(model_id, tmp_path / "state", LoraConfig(rank=8))
    with monkeypatch.context() as patch, nothing_changes(engine):
        patch.setattr(adapter_folders, "import_tensors", no_memory)
        engine.load_sampler("s", tmp_path / "weights")
    while engine.adapters.get("a").slot.pool.has_room:
        engine.snapshot("a", f"s{len(engine.memory._slots)}")
    with monkeypatch.context() as patch, nothing_changes(engine):
        patch.setattr(Pool, "grow", no_memory)
        engine.snapshot("a", "one more")
    engine.load_state("c", tmp_path / "state", LoraConfig(rank=8))
    assert torch.equal(engine.adapters.get("c").exp_avg, engine.adapters.get("b").exp_avg)


@pytest.mark.parametrize("where", ["tensors", "bytes", "files"])
def test_a_save_is_whole_or_absent(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    with monkeypatch.context() as patch, nothing_changes(engine):
        if where == "files":
            patch.setattr(whole_folders, "_sync", lambda folder: (_ for _ in ()).throw(MemoryError("full")))
        else:
            patch.setattr(adapter_folders, {"tensors": "export_tensors", "bytes": "dump_tensors"}[where], no_memory)
        engine.save_state("a", tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    engine.save_state("a", tmp_path / "state")
    engine.load_state("c", tmp_path / "state", LoraConfig(rank=8))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("way", ["out", "back"])
def test_an_adapter_moves_whole_or_stays(way: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    a, b = (engine.adapters.get(m).slot for m in "ab")
    wanted = [getattr(engine.adapters.get("a"), name).clone() for name in VECTORS]
    engine.memory.use([b])
    with monkeypatch.context() as patch:
        if way == "back":
            engine.memory._park(a)
            patch.setattr(torch.Tensor, "to", on_call(number, torch.Tensor.to))
            with pytest.raises(torch.OutOfMemoryError):
                engine.memory.use([a])
            assert a.row is None
        else:
            patch.setattr(slot_memory.torch, "empty", on_call(number, torch.empty))
            with pytest.raises(torch.OutOfMemoryError):
                engine.memory._park(a)
            assert a.row is not None
    engine.memory.use([a])
    for name, vector in zip(VECTORS, wanted, strict=True):
        assert torch.equal(getattr(engine.adapters.get("a"), name), vector)
    train(engine, "a", "b")


# -- sampling ----------------------------------------------------------------------------------------------------------


def drawn(answer: object) -> list[int]:
    assert isinstance(answer, SampleResponse), answer
    return list(answer.sequences[0].tokens)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_step_of_the_sampler_that_finds_no_memory_once_is_taken_in_halves(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is the prompt's, the others decode."""
    engine = make_engine()
    engine.snapshot("a", "s")
    jobs = [make_job("s", [n, 2, 3], 2, seed=n, owner=f"owner{n}") for n in range(3)]
    wanted = [drawn(answer) for answer in run_all(engine, jobs).values()]
    before = state(engine)
    monkeypatch.setattr(type(engine.base), "hidden", on_call(step, type(engine.base).hidden))
    found = run_all(engine, [make_job("s", [n, 2, 3], 2, seed=n, owner=f"owner{n}") for n in range(3)])
    assert [drawn(answer) for answer in found.values()] == wanted
    assert all(map(torch.equal, state(engine), before))


def test_a_sampler_that_has_to_halve_every_step_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    engine.snapshot("a", "s")
    jobs = [make_job("s", [n, 2, 3], 1, seed=n) for n in range(4)]
    wanted = [drawn(answer) for answer in run_all(engine, jobs).values()]
    hidden = type(engine.base).hidden

    def small(self: object, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        return no_memory() if len(context.lengths) > 2 else hidden(self, ids, context)  # pyright: ignore

    monkeypatch.setattr(type(engine.base), "hidden", small)
    for _ in range(2):
        caplog.clear()
        found = run_all(engine, [make_job("s", [n, 2, 3], 1, seed=n) for n in range(4)])
        assert [drawn(answer) for answer in found.values()] == wanted
        assert [record.message.count("go on in halves") for record in caplog.records] == [1]


@pytest.mark.parametrize("first", [0, 4])
def test_a_request_that_does_not_fit_alone_ends_and_the_others_go_on(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the guilty one has `first` tokens or more, any pass with it runs out of memory."""
    engine = make_engine()
    engine.snapshot("a", "s")
    jobs = [make_job("s", [n, 2, 3], 2, seed=n) for n in range(5)]
    wanted = [drawn(answer) for answer in run_all(engine, jobs).values()]
    hidden = type(engine.base).hidden
    guilty = make_job("s", [7, 8, 9], 1, seed=9)

    def too_large(self: object, ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        running = (*engine.sampler.schedule.running, *engine.sampler.schedule.prefilling)
        own = [s for s in running if s.group.job.request_id == guilty.request_id]
        tokens = ids.tolist()
        # Known by its newest token, which is a prompt's last one or, with these seeds, nobody else's at that time.
        if own and len(own[0].tokens) >= 3 + first and own[0].tokens[-1] in tokens:
            raise torch.OutOfMemoryError("simulated: 1 GiB wanted, 1 MiB free")
        return hidden(self, ids, context)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(type(engine.base), "hidden", too_large)
    results = run_all(engine, [*(make_job("s", [n, 2, 3], 2, seed=n) for n in range(5)), guilty])
    error = results.pop(guilty.request_id)
    assert isinstance(error, torch.OutOfMemoryError)
    assert "1 GiB wanted" in str(error)
    assert [drawn(answer) for answer in results.values()] == wanted


def test_a_cache_that_finds_no_memory_to_grow_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    engine.snapshot("a", "s")
    job = make_job("s", [1, 2, 3], seed=1)
    wanted = drawn(sample(engine, job))
    held = engine.sampler.cache.bytes_held
    with monkeypatch.context() as patch:
        patch.setattr(kv_cache, "free_memory", lambda device, wanted=0: 2**10)
        long = make_job("s", random_prompt(1000, 0), num_samples=40, max_tokens=20)
        error = run_all(engine, [long])[long.request_id]
        assert isinstance(error, MemoryError)
        assert "the KV cache needs " in str(error)
        assert "0.0 MiB are free on cpu" in str(error)
        assert "TINSMITH_KV_CACHE_MB" in str(error)
        # What fits into the cache as it is goes on.
        assert drawn(sample(engine, make_job("s", [1, 2, 3], seed=1))) == wanted
    assert engine.sampler.cache.bytes_held == held
    # With memory it grows.
    assert isinstance(run_all(engine, [long])[long.request_id], SampleResponse)


def test_a_cache_grows_by_what_is_wanted_where_twice_as_much_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = KVShape(layers=2, kv_heads=2, head_dim=16, dtype=torch.float32)
    cache = KVCache(shape, 16, 1000, CPU)
    cache.prepare([1])
    few, each = cache.bytes_held, shape.block_bytes(16)
    monkeypatch.setattr(kv_cache, "free_memory", lambda device, wanted=0: few)
    cache.prepare(list(range(2, 80)))
    assert cache.bytes_held == 80 * each
    with pytest.raises(MemoryError):
        cache.prepare(list(range(80, 200)))
    assert cache.bytes_held == 80 * each


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_cache_that_has_grown_by_half_when_memory_ran_out_grows_again(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KVCache(KVShape(layers=2, kv_heads=1, head_dim=4, dtype=torch.float32), 4, 1000, CPU)
    cache.prepare([1])
    cache.store(1, torch.tensor([4]), torch.ones(1, 1, 4), torch.ones(1, 1, 4))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_blocks", on_call(number, cache._blocks))
        with pytest.raises(torch.OutOfMemoryError):
            cache.prepare([100])
    cache.prepare([100])
    for layer in range(2):
        keys, values = cache.gather(layer, torch.tensor([[1, 100]]))
        assert keys.sum() == values.sum() == 4 * layer


def test_a_cache_takes_no_more_than_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = KVShape(layers=2, kv_heads=2, head_dim=16, dtype=torch.float32)
    monkeypatch.setattr(kv_cache, "free_memory", lambda device, wanted=0: 100 * 2**20)
    assert affordable_blocks(shape, CPU, Settings()) == 60 * 2**20 // shape.block_bytes(16)
    assert affordable_blocks(shape, CPU, Settings(kv_cache_mb=500)) == 500 * 2**20 // shape.block_bytes(16)
