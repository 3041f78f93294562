"""Accounts of owners: with random arrivals and costs nobody who waits falls behind, and nobody saves up."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.fakes.fake_engine import FakeClock, FakeEngine
from tests.support.operations import Driven, create, forward_backward, load_sampler, sample
from tinsmith.scheduler.shares.accounts import SLICE_S, Accounts

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
LANES = ("train", "sample")


@dataclass
class World:
    """Owners who have work or not, and what each was given of the time."""

    accounts: Accounts[str] = field(default_factory=Accounts)
    busy: set[str] = field(default_factory=set)
    given: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0.0))
    # For each pair that both have had work ever since: what was given when that began.
    since: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        for owner, weight in WEIGHTS.items():
            self.accounts.weigh(owner, weight)

    def toggle(self, owner: str) -> None:
        """Give an owner work, or take it away."""
        self.busy ^= {owner}
        for other in WEIGHTS:
            pair = (owner, other)
            self.since.pop(pair, None)
            self.since.pop(pair[::-1], None)
            if {owner, other} <= self.busy and owner != other:
                self.since[pair] = (self.given[owner], self.given[other])

    def turn(self, cost: float) -> None:
        """Give one turn to whoever is picked."""
        ready = {owner: LANES if owner == "a" else LANES[:1] for owner in WEIGHTS if owner in self.busy}
        picked = self.accounts.pick(ready, self.now)
        assert (picked is None) == (not self.busy)
        if picked is not None:
            owner, lane = picked
            assert owner in self.busy
            self.accounts.charge(lane, cost, {owner: 1.0})
            self.given[owner] += cost / WEIGHTS[owner]
            self.now += cost


STEPS = st.one_of(st.sampled_from(sorted(WEIGHTS)), st.floats(0.001, 1.0))


@examples(300)
@given(st.lists(STEPS, max_size=120))
def test_owners_with_work_get_equal_time_for_their_weight(steps: list[str | float]) -> None:
    """The bound of start-time fair queueing, over any stretch: the largest turn of each, for its weight."""
    world = World()
    bound = {owner: 1.0 / weight for owner, weight in WEIGHTS.items()}
    for step in steps:
        if isinstance(step, str):
            world.toggle(step)
        else:
            world.turn(step)
        for (one, other), (before_one, before_other) in world.since.items():
            more = (world.given[one] - before_one) - (world.given[other] - before_other)
            assert abs(more) <= bound[one] + bound[other] + 1e-4


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=50))
def test_a_newcomer_gets_the_next_turn_and_has_saved_up_nothing(costs: list[float]) -> None:
    world = World()
    world.toggle("a")
    for cost in costs:
        world.turn(cost)
    world.toggle("b")
    before = dict(world.given)
    world.turn(0.001)
    assert world.given["b"] > before["b"]
    turns = 0
    while world.given["a"] == before["a"]:
        world.turn(0.05)
        turns += 1
    # It has what one turn of the other costs, for its weight, and no more, however long the other was alone.
    assert turns <= WEIGHTS["b"] * costs[-1] / 0.05 + 2


def test_who_has_two_kinds_of_work_gets_no_more_than_who_has_one() -> None:
    world = World()
    for owner in ("a", "b"):
        world.toggle(owner)
        world.accounts.weigh(owner, 1.0)
    spent = {"a": {"train": 0.0, "sample": 0.0}, "b": {"train": 0.0}}
    for _ in range(400):
        owner, lane = world.accounts.pick({"a": LANES, "b": LANES[:1]}, 0.0) or ("", "")
        cost = {"train": 0.3, "sample": 0.1}[lane]
        world.accounts.charge(lane, cost, {owner: 1.0})
        spent[owner][lane] += cost
    assert sum(spent["a"].values()) == pytest.approx(spent["b"]["train"], rel=0.02)
    assert spent["a"]["train"] == pytest.approx(spent["a"]["sample"], rel=0.02)


def test_passes_are_cut_only_while_others_are_about() -> None:
    accounts: Accounts[str] = Accounts()
    accounts.pick({"a": LANES}, 0.0)
    assert accounts.turn("a").slice_s == float("inf")
    accounts.pick({"a": LANES, "b": LANES}, 1.0)
    accounts.pick({"a": LANES}, 30.0)
    assert accounts.turn("a").slice_s == SLICE_S
    accounts.pick({"a": LANES}, 62.0)
    assert accounts.turn("a").slice_s == float("inf")


def test_operations_carry_the_weight_of_their_owner() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock=clock, max_tokens_per_pass=8, token_s=0.1)
    driven = Driven(engine, clock=clock)
    driven.run(create("heavy", owner="heavy", weight=3.0), create("light", owner="light"))
    for n in range(1, 60):
        driven.submit(forward_backward("heavy", n, [5] * 4, owner="heavy", weight=3.0))
        driven.submit(forward_backward("light", n, [6] * 4, owner="light"))
    while len(engine.passes) < 40:
        driven.host.poll()
    rows = [row.model_id for one in engine.passes for row in one]
    assert rows.count("heavy") == pytest.approx(3 * rows.count("light"), rel=0.15)


def test_who_trains_and_samples_gets_no_more_of_the_engine_than_who_trains() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock=clock, max_tokens_per_pass=8, token_s=0.1, step_s=0.4)
    driven = Driven(engine, clock=clock, max_decode_batch=8)
    driven.run(create("both", owner="both"), create("one", owner="one"), load_sampler("s", owner="both"))
    driven.submit(*[sample("s", max_tokens=60, owner="both") for _ in range(200)])
    for n in range(1, 200):
        driven.submit(
            forward_backward("both", n, [5] * 4, owner="both"), forward_backward("one", n, [6] * 4, owner="one")
        )
    started = clock.now
    while clock.now < started + 200:
        driven.host.poll()
    rows = [row.model_id for one in engine.passes for row in one]
    trained = {model: rows.count(model) * 2 * 0.1 for model in ("both", "one")}
    assert trained["one"] == pytest.approx((clock.now - started) / 2, rel=0.1)
    assert trained["both"] == pytest.approx((clock.now - started) / 4, rel=0.15)
