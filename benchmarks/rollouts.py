"""How idle is the engine while reinforcement learning waits for slow environments? Synchronous beside asynchronous.

Both learn the same sums from the same seed on the embedded model; after every answer the environment sleeps for a time
drawn at random, as one does that asks a judge or runs a test. The modes take turns; every number is a mean of the runs.

python -m benchmarks.rollouts
python -m benchmarks.rollouts --sleep 0.5 --steps 40
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.common import Column, conditions, show, write_json
from tinsmith.cookbook import rl
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.training import ModelSetup
from tinsmith.engine.sharing import Turn
from tinsmith.scheduler.engine_scheduler import EngineScheduler, Lane


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        steps: of each run.
        groups, members: of a step.
        sleep_s: mean of the exponential distribution that an environment's sleep is drawn from, cut at five times it.
        repeats: runs of each mode.
    """

    steps: int = 30
    groups: int = 8
    members: int = 8
    sleep_s: float = 0.25
    repeats: int = 2


QUICK = Sizes(steps=3, groups=2, members=2, sleep_s=0.01, repeats=1)

MODES: dict[str, dict[str, int]] = {
    "synchronous": {},
    "streaming": {"stream_minibatches": 4},
    "asynchronous, K = 1": {"max_steps_off_policy": 1},
    "asynchronous, K = 3": {"max_steps_off_policy": 3},
}


class SlowSum(rl.ProblemEnv):
    """A sum of two digits whose answer takes a while to be checked."""

    def __init__(self, renderer: Renderer, pair: tuple[int, int], sleep_s: float, random: Random) -> None:
        super().__init__(renderer)
        self._pair = pair
        self._sleep_s = min(random.expovariate(1 / sleep_s), 5 * sleep_s)

    def get_question(self) -> str:
        return f"{self._pair[0]} + {self._pair[1]} = ? Write in \\boxed{{}}."

    def check_format(self, sample: str) -> bool:
        return sample.startswith("\\boxed{")

    async def check_answer(self, sample: str) -> bool:
        await asyncio.sleep(self._sleep_s)
        return sample == f"\\boxed{{{sum(self._pair)}}}"


@dataclass
class Engine:
    """What an engine did.

    Attributes:
        busy_s: seconds in turns.
        decode_turns, decoded: steps of the sampler, and tokens they gave.
        spans: begin and end of each turn, on the clock of `time.perf_counter`.
    """

    busy_s: float = 0.0
    decode_turns: int = 0
    decoded: int = 0
    spans: list[tuple[float, float]] | None = None


@contextmanager
def watched_engine() -> Iterator[Engine]:
    """Count what engines of this process do."""
    seen = Engine(spans=[])
    turn = EngineScheduler.turn

    def counted(self: EngineScheduler, lane: Lane, whose: Turn) -> dict[str, float]:
        began, tokens = time.perf_counter(), self.sample_queue.tokens
        parts = turn(self, lane, whose)
        assert seen.spans is not None
        seen.spans.append((began, time.perf_counter()))
        if lane is Lane.SAMPLE:
            seen.decode_turns += 1
            seen.decoded += self.sample_queue.tokens - tokens
        return parts

    EngineScheduler.turn = counted
    try:
        yield seen
    finally:
        EngineScheduler.turn = turn


def run(mode: dict[str, int], sizes: Sizes, seed: int) -> dict[str, float]:
    """Learn once in one mode; return idle share, pace, decode width, staleness and what was learned."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch, watched_engine() as engine:
        config = rl.RLConfig(
            log_path=f"{scratch}/run",
            batch_size=sizes.groups,
            group_size=sizes.members,
            learning_rate=2e-3,
            lora_rank=16,
            max_tokens=16,
            max_steps=sizes.steps,
            save_every=0,
            eval_every=0,
            seed=seed,
            **mode,
        )
        sleeps = Random(seed)

        def sums(model: ModelSetup) -> rl.RLDataset:
            def group(pair: tuple[int, int]) -> rl.RepeatedEnv:
                return rl.RepeatedEnv(lambda: SlowSum(model.renderer, pair, sizes.sleep_s, sleeps), config.group_size)

            return rl.ItemDataset(pairs, group, config.batch_size, seed)

        with redirect_stdout(StringIO()):
            rl.train(config, "rollouts", sums)
        rows = [json.loads(line) for line in Path(f"{scratch}/run/metrics.jsonl").read_text().splitlines()]
    rows = rows[: sizes.steps]
    # From the end of the first step, which also loads the model, to the end of the last.
    assert engine.spans is not None
    end = engine.spans[-1][1]
    elapsed = sum(row["time/step"] for row in rows[1:])
    busy = sum(stop - max(start, end - elapsed) for start, stop in engine.spans if stop > end - elapsed)
    tail = max(1, sizes.steps // 5)
    return {
        "idle share": 1 - busy / elapsed,
        "steps per second": (sizes.steps - 1) / elapsed,
        "sequences decoded at once": engine.decoded / max(1, engine.decode_turns),
        "oldest weights": max(row["rollout/sampler_age"] for row in rows),
        "reward, first steps": fmean(row["env/reward"] for row in rows[:tail]),
        "reward, last steps": fmean(row["env/reward"] for row in rows[-tail:]),
    }


def compare(sizes: Sizes, modes: dict[str, dict[str, int]] | None = None) -> list[Column]:
    """Run the modes in turns; return a column of each."""
    modes = MODES if modes is None else modes
    found: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
    for seed in range(sizes.repeats):
        for name, mode in modes.items():
            found[name].append(run(mode, sizes, seed))
    return [_column(name, runs) for name, runs in found.items()]


def _column(name: str, runs: Sequence[dict[str, float]]) -> Column:
    column = Column(name)
    for measured in runs[0]:
        unit = {"steps per second": "1/s", "oldest weights": "steps", "sequences decoded at once": "mean"}
        smaller = measured in ("idle share", "oldest weights")
        value = fmean(run[measured] for run in runs)
        column.add(measured, value, unit.get(measured, ""), higher_is_better=not smaller)
    return column


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleep", type=float, help="mean sleep of an environment, in seconds")
    parser.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    logging.getLogger("tinsmith").setLevel(logging.ERROR)
    given: dict[str, Any] = {"sleep_s": args.sleep, "steps": args.steps}
    sizes = replace(QUICK if args.quick else Sizes(), **{k: v for k, v in given.items() if v is not None})
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as home:
        os.environ["TINSMITH_HOME"] = home
        columns = compare(sizes)
    facts = conditions(sizes=vars(sizes))
    show("Rollouts with slow environments", columns, baseline=columns[0].system, facts=facts)
    if args.json:
        write_json(args.json, columns, facts)


if __name__ == "__main__":
    main()
