"""CPU threads follow the model and the load, unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine
from tinsmith.engine import threads
from tinsmith.engine.cores import Use
from tinsmith.engine.jobs import TrainRow
from tinsmith.engine.threads import Grain, Threads, free_cores, threads_for
from tinsmith.types.datum import Datum
from tinsmith.types.params import LoraConfig

TINY, SMALL, LARGE = 5_000_000, 110_000_000, 8_000_000_000


@pytest.fixture(autouse=True)
def _threads_are_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "others", "wanted"),
    [
        (1, 0.0, 1),
        (2, 0.0, 2),
        # A client and an API process need a part of a core; a process that never waits needs all of it.
        (2, 0.4, 2),
        (2, 1.0, 1),
        (2, 5.0, 1),
        (64, 30.2, 34),
        (64, 64.0, 1),
    ],
)
def test_as_many_cores_as_others_leave(cores: int, others: float, wanted: int) -> None:
    assert free_cores(cores, others) == wanted


@pytest.mark.parametrize(
    ("parameters", "free", "training", "sampling"),
    # More threads than a model has work for would only wait for each other.
    [
        (1_500_000, 64, 1, 1),
        (TINY, 1, 1, 1),
        (TINY, 2, 1, 2),
        (TINY, 64, 1, 2),
        (SMALL, 2, 2, 2),
        (SMALL, 64, 11, 44),
        (LARGE, 64, 64, 64),
        (LARGE, 1, 1, 1),
    ],
)
def test_as_many_threads_as_the_model_has_work_for(parameters: int, free: int, training: int, sampling: int) -> None:
    assert threads_for(parameters, free, Grain.TRAINING) == training
    assert threads_for(parameters, free, Grain.SAMPLING) == sampling


class Machine:
    """Two cores, on which this process uses up all that it is given and others what the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.others = 0.0
        self.looks = 0
        self._use = Use(self.now, 0.0, 0.0)

    def clock(self) -> float:
        return self.now

    def use(self) -> Use:
        self.looks += 1
        return self._use

    def wait(self, seconds: float) -> None:
        own = (2 - self.others) * seconds
        before, self.now = self._use, self.now + seconds
        self._use = Use(self.now, before.everyone + 2 * seconds, before.own + own)


def test_the_number_follows_the_load_between_passes_and_the_load_is_looked_at_once_a_second() -> None:
    machine = Machine()
    found = Threads(2, machine.use, machine.clock)
    machine.wait(3.0)
    assert found.settle(SMALL, None) == torch.get_num_threads() == found.free == 2
    machine.others = 1.0
    machine.wait(0.5)
    found.follow_load(Grain.TRAINING)
    assert torch.get_num_threads() == 2
    assert machine.looks == 2
    machine.wait(0.6)
    found.follow_load(Grain.TRAINING)
    assert torch.get_num_threads() == 1
    machine.others = 0.0
    machine.wait(1.0)
    found.follow_load(Grain.TRAINING)
    assert torch.get_num_threads() == 2


def test_a_pass_has_the_threads_of_its_kind_although_the_load_was_just_looked_at() -> None:
    machine = Machine()
    found = Threads(2, machine.use, machine.clock)
    machine.wait(1.0)
    found.settle(TINY, None)
    looks = machine.looks
    for grain, wanted in ((Grain.SAMPLING, 2), (Grain.TRAINING, 1), (Grain.SAMPLING, 2)):
        found.follow_load(grain)
        assert torch.get_num_threads() == wanted
    assert machine.looks == looks


def test_a_number_of_the_settings_stays_whatever_the_load() -> None:
    machine = Machine()
    found = Threads(2, machine.use, machine.clock)
    assert found.settle(TINY, 2) == 2
    machine.others = 2.0
    machine.wait(5.0)
    found.follow_load(Grain.TRAINING)
    assert torch.get_num_threads() == 2


def test_the_largest_model_of_a_process_decides() -> None:
    found = Threads(16, lambda: Use(0.0, 0.0, 0.0), lambda: 0.0)
    assert [found.settle(size, None) for size in (TINY, LARGE, TINY)] == [1, 16, 16]
    assert found.free == found.steady == 16


def test_an_engine_looks_at_the_load_before_it_trains_and_before_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(checkpoint("qwen3"))
    engine.create_model("run", LoraConfig(rank=4))
    looks: list[Grain] = []
    monkeypatch.setattr(threads.THREADS, "follow_load", looks.append)
    engine.train_rows([TrainRow("run", Datum(tokens=[1, 2], targets=[2, 3]), "cross_entropy", {}, True)])
    # Before the pass and after it.
    assert looks == [Grain.TRAINING] * 2
    engine.sampler.step()
    assert looks[2:] == [Grain.SAMPLING]


def test_others_take_the_cores_first_that_a_quota_keeps_from_this_process() -> None:
    machine = Machine()
    for spare, wanted in ((0, 1), (1, 2)):
        found = Threads(2, machine.use, machine.clock, spare)
        machine.others = 1.0
        machine.wait(1.0)
        found.settle(TINY, None)
        assert found.free == wanted


def test_after_a_rest_the_moment_counts_and_not_what_was_before() -> None:
    now = Use(100.0, 0.0, 0.0)
    found = Threads(2, lambda: now, lambda: now.at)
    # A minute of a script's own work on both cores, which is over.
    now = Use(160.0, 120.0, 0.1, running=1)
    found.settle(TINY, None)
    assert found.free == 2
    now = Use(220.0, 240.0, 0.2, running=2)
    found.follow_load(Grain.TRAINING)
    assert found.free == 1
    # What came while this process computed is an average that counts.
    now = Use(230.0, 260.0, 10.2, running=0)
    found.follow_load(Grain.TRAINING)
    assert found.free == 1
