"""More adapters than fit: those used longest ago go to host memory and come back, to the last bit, unnoticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tests.support.sampling import make_job, run_all, sample
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

ADAM = AdamParams(learning_rate=1e-2, weight_decay=0.01)
VECTORS = ("master", "grad", "exp_avg", "exp_avg_sq")


def needs(engine: Engine) -> int:
    """Bytes on the device of one adapter in training."""
    engine.create_model("measured", LoraConfig(rank=8))
    slot = engine.adapters.get("measured").slot
    found = slot.pool.slot_bytes + slot.state_bytes
    engine.remove_model("measured")
    return found


def tight_engine(slots: int, **settings: Any) -> Engine:
    """An engine with room for so many adapters in training."""
    engine = load_engine(checkpoint("llama"), **settings)
    engine.memory.budget = slots * needs(engine)
    return engine


def on_device(engine: Engine) -> set[str]:
    return {m for m in engine.adapters.model_ids() if engine.adapters.get(m).slot.row is not None}


def train(engine: Engine, model_ids: list[str], seed: int, *, backward: bool = True) -> list[RowOutput]:
    rng = np.random.default_rng(seed)
    rows = [make_row(m, "cross_entropy", int(rng.integers(5, 30)), rng, backward=backward) for m in model_ids]
    outputs = engine.train_rows(rows)
    assert all(isinstance(output, RowOutput) for output in outputs)
    return [output for output in outputs if isinstance(output, RowOutput)]


def drawn(answer: object) -> list[tuple[list[int], list[float]]]:
    assert isinstance(answer, SampleResponse), answer
    return [(list(s.tokens), list(s.logprobs or [])) for s in answer.sequences]


MODEL = st.integers(0, 9)
OPERATION = st.one_of(
    st.tuples(st.just("train"), st.lists(MODEL, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("forward"), st.lists(MODEL, min_size=1, max_size=3, unique=True)),
    st.tuples(
        st.sampled_from(["step", "snapshot", "sample", "save", "load", "renew", "clear"]), MODEL.map(lambda n: [n])
    ),
)


class Twin:
    """The same operations on an engine with three places and on one with room for all; both must answer alike."""

    def __init__(self, tight: Engine, roomy: Engine, folder: Path) -> None:
        self.engines = {"tight": tight, "roomy": roomy}
        self.folder = folder
        self.turn = 0

    def begin(self) -> None:
        for engine in self.engines.values():
            for number in range(10):
                # Two ranks: room that one pool gives up is another's.
                engine.create_model(f"m{number}", LoraConfig(rank=8 if number % 3 else 4, seed=number))
                engine.snapshot(f"m{number}", f"s{number}")

    def end(self) -> None:
        for engine in self.engines.values():
            for number in range(10):
                engine.remove_model(f"m{number}")
                engine.release_sampler(f"s{number}")
            assert engine.memory.used == engine.memory.parked == 0

    def apply(self, name: str, numbers: list[int]) -> None:
        self.turn += 1
        answers = {place: self._apply(engine, name, numbers, place) for place, engine in self.engines.items()}
        assert answers["tight"] == answers["roomy"], name
        tight = self.engines["tight"]
        assert tight.memory.used <= tight.memory.budget

    def _apply(self, engine: Engine, name: str, numbers: list[int], place: str) -> object:
        model, sampler = f"m{numbers[0]}", f"s{numbers[0]}"
        match name:
            case "train" | "forward":
                outputs = train(engine, [f"m{n}" for n in numbers], self.turn, backward=name == "train")
                return [(output.loss, output.logprobs.tobytes()) for output in outputs]
            case "step":
                return engine.optim_step(model, ADAM)
            case "snapshot":
                return engine.snapshot(model, sampler)
            case "sample":
                return drawn(sample(engine, make_job(sampler, [1, 2, 3], 2, max_tokens=3, request_id=f"r{self.turn}")))
            case "save":
                engine.save_state(model, self.folder / f"{place}{numbers[0]}-{self.turn}")
                return (self.folder / f"{place}{numbers[0]}-{self.turn}" / "optimizer.safetensors").read_bytes()
            case "load":
                folders = sorted(self.folder.glob(f"{place}{numbers[0]}-*"))
                return engine.load_state(model, folders[-1], engine.adapters.get(model).lora) if folders else None
            case "renew":
                lora = engine.adapters.get(model).lora
                engine.remove_model(model)
                return engine.create_model(model, lora)
            case _:
                return engine.clear_gradients(model)

    def compare(self) -> None:
        for number in range(10):
            tight, roomy = (engine.adapters.get(f"m{number}") for engine in self.engines.values())
            assert (tight.step, tight.has_gradients) == (roomy.step, roomy.has_gradients)
            for name in VECTORS:
                assert torch.equal(getattr(tight, name), getattr(roomy, name)), name


@pytest.fixture(scope="module")
def twins() -> tuple[Engine, Engine]:
    return tight_engine(3), load_engine(checkpoint("llama"))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(operations=st.lists(OPERATION, min_size=10, max_size=30))
def test_three_places_and_ten_adapters_equal_room_for_all(
    operations: list[tuple[str, list[int]]], twins: tuple[Engine, Engine], tmp_path_factory: pytest.TempPathFactory
) -> None:
    twin = Twin(*twins, tmp_path_factory.mktemp("states"))
    moved = twins[0].memory.moves
    twin.begin()
    for name, numbers in operations:
        twin.apply(name, numbers)
    twin.compare()
    twin.end()
    assert twins[0].memory.moves > moved
    assert not twins[1].memory.moves


def test_the_one_used_longest_ago_goes_first() -> None:
    engine = tight_engine(3)
    for name in "abc":
        engine.create_model(name, LoraConfig(rank=8))
    train(engine, ["a"], 0)
    parked = engine.adapters.get("b")
    places = {name: getattr(parked, name).data_ptr() for name in VECTORS}
    engine.create_model("d", LoraConfig(rank=8))
    assert on_device(engine) == {"a", "c", "d"}
    # All of it has moved, or the device would be as full as before.
    assert all(getattr(parked, name).data_ptr() != place for name, place in places.items())
    assert engine.memory.parked == parked.slot.state_bytes
    shown = engine.figures()
    assert (shown["host_adapters"], shown["host_adapter_bytes"], shown["adapter_moves"]) == (1, engine.memory.parked, 1)
    assert 0 < shown["adapter_bytes"] <= shown["adapter_budget_bytes"]
    engine.optim_step("c", ADAM)
    train(engine, ["b"], 1)
    assert on_device(engine) == {"b", "c", "d"}
    # Neither saving nor forgetting gradients brings one back.
    engine.clear_gradients("a")
    assert on_device(engine) == {"b", "c", "d"}


def test_a_pass_never_sends_away_one_that_it_uses() -> None:
    engine = tight_engine(3)
    for number in range(6):
        engine.create_model(f"m{number}", LoraConfig(rank=8, seed=number))
    train(engine, ["m0", "m4", "m2"], 0)
    assert on_device(engine) == {"m0", "m2", "m4"}
    train(engine, ["m5", "m0", "m4"], 0)
    assert on_device(engine) == {"m0", "m4", "m5"}


@pytest.mark.parametrize("exact", [False, True])
def test_a_pass_with_more_adapters_than_fit_is_computed_in_parts(exact: bool) -> None:
    tight, roomy = tight_engine(2, batch_invariant=exact), load_engine(checkpoint("llama"), batch_invariant=exact)
    names = [f"m{number}" for number in range(7)]
    for engine in (tight, roomy):
        for number, name in enumerate(names):
            engine.create_model(name, LoraConfig(rank=8))
            randomise_adapter(engine, name, number)
    # Two rows of each, apart from each other: those of one adapter stay together.
    found, wanted = (train(engine, names + names[::-1], 5) for engine in (tight, roomy))
    for one, other in zip(found, wanted, strict=True):
        # How a pass is cut changes rounding, unless nothing that is computed beside a row may.
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)
        assert not exact or np.array_equal(one.logprobs, other.logprobs)
    for name in names:
        found_grad, wanted_grad = (engine.adapters.get(name).grad for engine in (tight, roomy))
        torch.testing.assert_close(found_grad, wanted_grad)
        assert not exact or torch.equal(found_grad, wanted_grad)
        assert tight.adapters.get(name).has_gradients


def test_samples_of_more_adapters_than_fit_run_at_once() -> None:
    tight, roomy = tight_engine(1), load_engine(checkpoint("llama"))
    for engine in (tight, roomy):
        engine.create_model("m", LoraConfig(rank=8, seed=1))
        for number in range(8):
            engine.adapters.ready("m")
            randomise_adapter(engine, "m", number, scale=0.3)
            engine.snapshot("m", f"s{number}")
    slots = [tight.snapshots.get(f"s{number}").slot for number in range(8)]
    assert sum(slot is not None and slot.row is None for slot in slots) >= 3
    jobs = [[make_job(f"s{n}", [1, 2, n], 2, max_tokens=6, request_id=f"r{n}") for n in range(8)] for _ in range(2)]
    found, wanted = run_all(tight, jobs[0]), run_all(roomy, jobs[1])
    for request_id, answer in wanted.items():
        for one, other in zip(drawn(found[request_id]), drawn(answer), strict=True):
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1], other[1], rtol=1e-5, atol=1e-5)


def test_a_snapshot_in_host_memory_is_written_from_there(tmp_path: Path) -> None:
    engine = tight_engine(1)
    engine.create_model("m", LoraConfig(rank=8))
    randomise_adapter(engine, "m", 0)
    engine.snapshot("m", "s")
    with ThreadPoolExecutor(1) as thread:
        engine.write_snapshot("s", tmp_path / "before")
        for number in range(12):
            # Written in the background, while the engine moves it and others to and fro.
            written = thread.submit(engine.write_snapshot, "s", tmp_path / f"s{number}")
            train(engine, ["m"], number)
            engine.snapshot("m", "t")
            sample(engine, make_job("s", [1], 1, max_tokens=1))
            written.result()
    wanted = load_file(tmp_path / "before" / "adapter_model.safetensors")
    for number in range(12):
        found = load_file(tmp_path / f"s{number}" / "adapter_model.safetensors")
        assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    assert engine.memory.moves > 12


def test_memory_is_refused_where_neither_place_has_any() -> None:
    engine = tight_engine(2)
    size = engine.memory.budget // 2
    engine.memory.host_budget = 3 * size
    for number in range(5):
        engine.create_model(f"m{number}", LoraConfig(rank=8))
    wanted = (
        r"needs .* MiB, expected at most the 0\.0 MiB left of TINSMITH_ADAPTER_MB = .* and TINSMITH_HOST_ADAPTER_MB ="
    )
    with pytest.raises(UserError, match=wanted):
        engine.create_model("more", LoraConfig(rank=8))
    # Nobody who was let in is ever refused.
    for number in range(5):
        train(engine, [f"m{number}"], number)
    engine.remove_model("m3")
    engine.create_model("more", LoraConfig(rank=8))
    # One alone that the device cannot hold.
    with pytest.raises(UserError, match="needs"):
        engine.create_model("large", LoraConfig(rank=256))


def test_without_host_memory_a_further_adapter_is_refused() -> None:
    engine = tight_engine(2)
    engine.memory.host_budget = 0
    for name in "ab":
        engine.create_model(name, LoraConfig(rank=8))
    with pytest.raises(UserError, match="end a training run or a sampler"):
        engine.create_model("c", LoraConfig(rank=8))
    assert not engine.memory.moves
