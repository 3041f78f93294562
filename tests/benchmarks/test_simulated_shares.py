"""In the simulation the real scheduler gives each owner its weight's share, whatever it does and however it cuts it."""

from __future__ import annotations

import pytest

from benchmarks.simulation.costs import read_costs
from benchmarks.simulation.figures import jain
from benchmarks.simulation.kinds import KINDS
from benchmarks.simulation.tenants import Tenant
from benchmarks.simulation.world import World
from tinsmith.settings import Settings

TRAIN, SAMPLE = "training flood", "sampling flood"


def service(*tenants: tuple[str, float]) -> list[float]:
    """Return what tenants of some kinds and weights had of twelve seconds, once their first requests have ended."""
    # Places that two and three owners can share without a rest.
    world = World(Settings(max_decode_batch=96), read_costs("h100-8b"), cache_tokens=290_000)
    made = [Tenant(world, kind, number, weight, seed=0) for number, (kind, weight) in enumerate(tenants)]
    for tenant in made:
        tenant.live(KINDS[tenant.owner.rpartition("-")[0]].life, 0.0)
    world.run(5.0, 5.0)
    before = [account.service for account in world.ledger.accounts.values()]
    world.run(12.0, 12.0)
    return [account.service - had for account, had in zip(world.ledger.accounts.values(), before, strict=True)]


@pytest.mark.parametrize(
    "tenants",
    [
        ((TRAIN, 2.0), (TRAIN, 1.0)),
        ((SAMPLE, 2.0), (SAMPLE, 1.0)),
        ((SAMPLE, 2.0), (TRAIN, 1.0)),
        ((TRAIN, 2.0), (SAMPLE, 1.0)),
    ],
)
def test_a_weight_of_two_is_twice_the_service(tenants: tuple[tuple[str, float], ...]) -> None:
    heavy, light = service(*tenants)
    assert heavy / (heavy + light) == pytest.approx(2 / 3, rel=0.05)
    assert light / (heavy + light) == pytest.approx(1 / 3, rel=0.05)


def test_training_and_sampling_are_one_account() -> None:
    shares = service((TRAIN, 1.0), (SAMPLE, 1.0), (SAMPLE, 1.0), (TRAIN, 1.0))
    assert jain(shares) > 0.995, shares


def test_five_runs_are_no_larger_share_than_one() -> None:
    flood, loop = service((TRAIN, 1.0), ("pipelined", 1.0))
    assert flood / loop == pytest.approx(1.0, rel=0.1)


def test_who_needs_little_gets_it_beside_floods() -> None:
    """A tenant that waits for each of its steps gets all that it asks for, the floods share the rest."""
    alone = service(("interactive", 1.0))[0]
    beside = service(("interactive", 1.0), (TRAIN, 1.0), (SAMPLE, 1.0))
    assert beside[0] > 0.5 * alone
    assert jain(beside[1:]) > 0.99, beside
