"""The simulation is deterministic, and in it the real scheduler starves nobody and never rests beside work."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.simulation.__main__ import Plan, combinations, parse_arguments, run, simulate
from benchmarks.simulation.costs import read_costs
from benchmarks.simulation.figures import engine_column, jain, window_indices
from benchmarks.simulation.kinds import KINDS, numbers_of
from benchmarks.simulation.measure import fit
from benchmarks.simulation.measure import parse_arguments as measure_arguments
from benchmarks.simulation.picture import even_shares
from benchmarks.simulation.tenants import Process, Tenant
from benchmarks.simulation.world import World
from tests.docs.snippets import ROOT
from tests.docs.test_commands import commands_of
from tinsmith.settings import Settings
from tinsmith.types.errors import UserError

COSTS = read_costs("h100-8b")
CACHE_TOKENS = 290_000
# Small batches, so that a simulated minute takes few decisions of this machine.
SETTINGS = Settings(max_decode_batch=64)


@pytest.fixture(scope="module")
def fifty() -> World:
    return simulate(Plan(50, 24.0, 0, 6.0, CACHE_TOKENS, COSTS), SETTINGS)


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    files = []
    for name in ("one", "other"):
        files.append(tmp_path / f"{name}.json")
        words = f"--tenants 8 --seconds 2 --window 1 --seed 3 --json {files[-1]} --picture {tmp_path / name}.svg"
        run(parse_arguments(words.split()))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_another_seed_gives_other_numbers() -> None:
    served = [simulate(Plan(8, 2.0, seed, 2.0, CACHE_TOKENS, COSTS), SETTINGS).ledger.busy_s for seed in (0, 1)]
    assert served[0] != served[1]


def test_the_engine_never_rests_beside_work(fifty: World) -> None:
    assert fifty.ledger.idle_beside_work_s == 0.0
    # There is always a flood, so there is always work once all have begun.
    assert fifty.ledger.busy_s > 0.9 * fifty.ledger.seconds


def test_what_is_served_is_the_time_that_the_engine_worked(fifty: World) -> None:
    served = sum(account.service for account in fifty.ledger.accounts.values())
    assert served == pytest.approx(fifty.ledger.busy_s, rel=0.01)


def test_nobody_starves(fifty: World) -> None:
    accounts = fifty.ledger.accounts
    # One full pass of everybody is the longest that anybody has to wait, and who has nothing running waits for none.
    one_pass = COSTS.train(SETTINGS.max_tokens_per_pass, adapters=8)
    assert max(account.longest for account in accounts.values()) < one_pass * len(accounts)
    assert max(wait for account in accounts.values() for wait in account.newcomer_waits) < 5 * one_pass


def test_kinds_make_up_all_tenants() -> None:
    for tenants in (8, 9, 50, 1000):
        numbers = numbers_of(tenants)
        assert sum(numbers.values()) == tenants
        assert all(number > 0 for number in numbers.values())
        assert set(numbers) == set(KINDS)


def test_jain() -> None:
    assert jain([2.0, 2.0, 2.0]) == 1.0
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([3.0, 1.0]) == pytest.approx(16 / 20)
    assert jain([0.0, 0.0]) == 1.0


def test_windows_without_two_that_wait_say_nothing() -> None:
    assert window_indices([{}, {"a": 1.0}, {"a": 1.0, "b": 0.0}]) == [0.5]


def test_a_request_that_never_begins_is_seen() -> None:
    world = World(SETTINGS, COSTS, CACHE_TOKENS)
    waiter = Tenant(world, "chat", 0, 1.0, seed=0)

    def asks_twice(me: Tenant) -> Process:
        run_ = me.open_run()
        yield me.step(run_, rows=1, length=16)
        # Its order lacks what comes before.
        run_.next_seq += 1
        yield me.step(run_, rows=1, length=16)

    waiter.live(asks_twice, 0.0)
    world.run(10.0, 5.0)
    account = world.ledger.accounts[waiter.owner]
    assert max(account.waits) > 9.0
    assert account.longest > 9.0
    assert engine_column("all", world.ledger).get("longest without service").value > 9.0  # pyright: ignore


def test_shares_of_a_picture_are_relative_to_the_mean(fifty: World) -> None:
    values = [value for each in even_shares(fifty.ledger).values() for value in each]
    assert min(values) < 1.05
    assert max(values) > 0.95


@pytest.mark.parametrize(
    ("sweeps", "expected"),
    [
        ([], [{}]),
        (["max_decode_batch=64,128"], [{"max_decode_batch": 64}, {"max_decode_batch": 128}]),
        (
            ["max_decode_batch=64", "max_tokens_per_pass=1,2"],
            [
                {"max_decode_batch": 64, "max_tokens_per_pass": 1},
                {"max_decode_batch": 64, "max_tokens_per_pass": 2},
            ],
        ),
    ],
)
def test_a_sweep_names_settings(sweeps: list[str], expected: list[dict[str, int]]) -> None:
    assert list(combinations(sweeps)) == expected


@pytest.mark.parametrize("sweep", ["port=1,2", "max_decode_batch=a", "max_decode_batch=", "max_decode_batch", ""])
def test_a_sweep_of_something_else_is_refused(sweep: str) -> None:
    with pytest.raises(UserError, match=r"^sweep: got "):
        list(combinations([sweep]))


def test_a_value_that_a_setting_does_not_take_is_refused() -> None:
    with pytest.raises(UserError, match=r"^sweep max_tokens_per_pass: got 3, expected "):
        run(arguments(sweep=["max_tokens_per_pass=3"]))


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '{"pass_s": 1}'])
def test_costs_of_a_file_are_checked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^costs"):
        read_costs(str(path))


def test_a_line_is_found_and_has_no_negative_part() -> None:
    line = [((1, a, t), 2.0 + 0.5 * a + 0.25 * t) for a in (1, 4) for t in (8, 64)]
    coefficients, error = fit(line)
    assert coefficients == pytest.approx([2.0, 0.5, 0.25])
    assert error == pytest.approx(0.0, abs=1e-9)
    falling = [((1, a, t), 100.0 + t - a) for a in (1, 4) for t in (8, 64)]
    assert min(fit(falling)[0]) >= 0.0


def test_measured_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(asdict(COSTS)))
    assert read_costs(str(path)) == COSTS


def test_the_page_shows_arguments_that_there_are() -> None:
    page = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8")
    parsers = {"benchmarks.simulation": parse_arguments, "benchmarks.simulation.measure": measure_arguments}
    shown = [words for words in commands_of(page) if words[:2] == ["python", "-m"]]
    assert len(shown) >= 3
    for _, _, module, *words in shown:
        args = parsers[module](words)
        assert list(combinations(getattr(args, "sweep", [])))


def test_unknown_costs_are_refused() -> None:
    with pytest.raises(UserError, match=r"^costs: got 'a100', expected one of h100-8b"):
        read_costs("a100")


def arguments(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**vars(parse_arguments(["--tenants", "8", "--seconds", "1"])) | changes)
