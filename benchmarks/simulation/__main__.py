"""Simulate the service's scheduler under many tenants: how busy the engine is, who waits how long, how fair it is.

Host, queues, shares, and the sampler's schedule and cache are the service's own; engine, disk and time are simulated.
The same seed gives the same numbers, on any machine. Tenants chat, train step by step or several steps ahead, do
reinforcement learning, evaluate a thousand samples at once, come and go, or send more than anybody can serve.

python -m benchmarks.simulation                                                    # 1,000 tenants, one hour
python -m benchmarks.simulation --tenants 200 --seconds 600 --sweep max_tokens_per_pass=2048,4096,8192
python -m benchmarks.simulation --hours 1 --picture fairness.svg --json fairness.json
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.common import Column, show, write_json
from benchmarks.simulation.costs import KNOWN, Costs, read_costs
from benchmarks.simulation.figures import engine_column, kind_columns, mean_whole
from benchmarks.simulation.kinds import KINDS, make_tenant, numbers_of, populate
from benchmarks.simulation.picture import save_picture
from benchmarks.simulation.world import World
from tinsmith.settings import EngineSettings, Settings
from tinsmith.types.errors import UserError, invalid

# What a tenant feels alone is told well by so many of its requests.
_ALONE_REQUESTS = 1000
# What a sweep may vary: settings that the scheduler or its engine's schedule read.
_SWEPT = ("max_tokens_per_pass", "max_decode_batch", "prefill_tokens", "kv_block_size")


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        tenants: of all kinds together.
        seconds: simulated.
        seed: of all that is random.
        window_s: shares are compared over windows of this length, seconds.
        cache_tokens: tokens that the KV cache holds.
        costs: of the engine.
    """

    tenants: int
    seconds: float
    seed: int
    window_s: float
    cache_tokens: int
    costs: Costs

    @property
    def arrival_s(self) -> float:
        """The time within which the tenants begin: not all at once, and early enough to be seen for long."""
        return min(900.0, self.seconds / 4)


def simulate(plan: Plan, settings: Settings) -> World:
    """Let all tenants live; return what they leave."""
    world = World(settings, plan.costs, plan.cache_tokens)
    populate(world, plan.tenants, plan.seed, plan.arrival_s)
    world.run(plan.seconds, plan.window_s)
    return world


def alone(plan: Plan, settings: Settings) -> dict[str, float]:
    """Return, by kind, the mean time of the steps and samples of one tenant that has the engine to itself, seconds."""
    found: dict[str, float] = {}
    for kind in numbers_of(plan.tenants):
        world = World(settings, plan.costs, plan.cache_tokens)
        make_tenant(world, kind, 0, plan.seed, after_s=0.0)
        while world.env.now < plan.seconds and world.ledger.answered_requests < _ALONE_REQUESTS:
            world.env.run(until=world.env.now + plan.window_s)
        mean = mean_whole(world.ledger)
        if mean is not None:
            found[kind] = mean
    return found


def combinations(sweeps: list[str]) -> Iterator[dict[str, int]]:
    """Yield all pairs of the values that `NAME=VALUE,VALUE` names.

    Raises:
        UserError: a sweep names no setting that can be swept, or no numbers.
    """
    named: dict[str, list[int]] = {}
    for sweep in sweeps:
        name, _, values = sweep.partition("=")
        if name not in _SWEPT or name in named:
            raise invalid("sweep", sweep, f"one of {', '.join(_SWEPT)}, once, as NAME=VALUE,VALUE")
        try:
            named[name] = [int(value) for value in values.split(",")]
        except ValueError as error:
            raise invalid("sweep", sweep, "NAME=VALUE,VALUE with whole numbers") from error
    for chosen in itertools.product(*named.values()):
        yield dict(zip(named, chosen, strict=True))


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenants", type=_at_least(len(KINDS), int), default=1000)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--hours", type=_at_least(0.001, float), default=1.0, help="of simulated time")
    how_long.add_argument("--seconds", type=_at_least(1.0, float), help="of simulated time, in place of hours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help=f"simulate once for each value of a setting ({', '.join(_SWEPT)}); twice: for all pairs",
    )
    parser.add_argument("--costs", default="h100-8b", help=f"of the engine: {', '.join(KNOWN)}, or a JSON file")
    parser.add_argument("--cache-tokens", type=_at_least(8192, int), default=290_000, help="that the KV cache holds")
    parser.add_argument("--window", type=_at_least(1.0, float), default=200.0, help="seconds over which shares count")
    parser.add_argument("--picture", type=Path, help="draw shares and waits of the first setting here: .svg or .png")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser.parse_args(words)


def _at_least(least: float, kind: type[int] | type[float]) -> Any:
    def read(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least}")
        return value

    read.__name__ = "whole number" if kind is int else "number"
    return read


def run(args: argparse.Namespace) -> None:
    """Simulate, print the tables, and write picture and JSON.

    Raises:
        UserError: an argument is wrong.
    """
    seconds = args.seconds or 3600 * args.hours
    plan = Plan(args.tenants, seconds, args.seed, args.window, args.cache_tokens, read_costs(args.costs))
    engines: list[Column] = []
    kinds: dict[str, list[Column]] = {}
    for number, chosen in enumerate(combinations(args.sweep)):
        settings = _settings(chosen)
        name = ", ".join(f"{key}={value}" for key, value in chosen.items()) or "default settings"
        began = time.process_time()
        world = simulate(plan, settings)
        _tell_speed(name, world, time.process_time() - began)
        engines.append(engine_column(name, world.ledger))
        kinds[name] = kind_columns(world.ledger, alone(plan, settings))
        if number == 0 and args.picture:
            title = f"{plan.tenants:,} tenants, {plan.seconds:,.0f} simulated seconds, {name}"
            save_picture(world.ledger, kinds[name], args.picture, title)
    facts: dict[str, Any] = {"tenants": plan.tenants, "seconds": plan.seconds, "seed": plan.seed, "costs": args.costs}
    show("The engine", engines, baseline=engines[0].system, facts=facts)
    for name, columns in kinds.items():
        show(f"Each kind of tenant, {name}", columns, baseline=None, facts={})
    if args.json:
        # Nothing of this machine or this day: the same seed gives the same file.
        told = [Column(f"{c.system}, {name}", c.rows) for name, columns in kinds.items() for c in columns]
        write_json(args.json, [*engines, *told], {**facts, "plan": asdict(plan)})


def _settings(chosen: dict[str, int]) -> Settings:
    # Of the command line alone: what this machine's service is set to must not change the numbers.
    defaults = {name: field.default for name, field in EngineSettings.model_fields.items()}
    try:
        return Settings(**{**defaults, **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(f"sweep {first['loc'][0]}", first["input"], str(first["msg"])) from error


def _tell_speed(name: str, world: World, seconds: float) -> None:
    each = 1e6 * world.deciding_s / max(1, world.turns)
    print(f"{name}: {seconds:,.1f} s of processor time, {world.turns:,} turns, {each:,.0f} µs of scheduling in each")


def main() -> None:
    """Run the command; a wrong argument is one line."""
    try:
        run(parse_arguments())
    except UserError as error:
        raise SystemExit(f"error: {error.message}") from error


if __name__ == "__main__":
    main()
