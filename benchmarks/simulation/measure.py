"""Measure an engine, and write what its passes, steps and small operations take as costs for the simulation.

Straight lines are fitted to the least of several runs of each size; how far off they are is told.

python -m benchmarks.simulation.measure --json costs.json                          # the embedded model on this CPU
python -m benchmarks.simulation.measure --model FOLDER --device cuda --dtype bfloat16 --json costs.json
python -m benchmarks.simulation --costs costs.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.common import Column, conditions, show, stopwatch
from benchmarks.simulation.costs import Costs
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.models import path
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams

_ROW = 128  # tokens of a training row
_DECODED = 6  # steps over which decoding is timed

# What a kind of work has of each thing that its time depends on, and the seconds that it took.
Points = list[tuple[tuple[int, ...], float]]


class Measured:
    """An engine with adapters and a sampler of each.

    Args:
        engine: with nothing in it yet.
        adapters: how many to make.
        rank: of each.
        repeats: times that each size is run; the least counts.
    """

    def __init__(self, engine: Engine, adapters: int, rank: int, repeats: int) -> None:
        self._engine = engine
        self._names = [f"model-{i}" for i in range(adapters)]
        self._repeats = repeats
        self._jobs = itertools.count()
        for name in self._names:
            engine.create_model(name, LoraConfig(rank=rank, seed=0))
            engine.snapshot(name, name)

    def passes(self, sizes: Sequence[int], adapters: Sequence[int]) -> Points:
        """Time training passes of so many tokens: (1, adapters, tokens)."""
        found: Points = []
        for tokens, number in itertools.product(sizes, adapters):
            rows = [self._row(self._names[i % number]) for i in range(max(number, tokens // _ROW))]
            features = (1, number, _ROW * len(rows))
            found.append((features, self._least(lambda rows=rows: self._engine.train_rows(rows))))
        return found

    def prefills(self, sizes: Sequence[int], adapters: Sequence[int]) -> Points:
        """Time prefill steps of so many tokens: (1, adapters, tokens)."""
        found: Points = []
        for tokens, number in itertools.product(sizes, adapters):
            each = max(1, tokens // number)

            def run(number: int = number, each: int = each) -> float:
                for name in self._names[:number]:
                    self._add(name, each, 1, max_tokens=1)
                return self._step()

            found.append(((1, number, each * number), min(run() for _ in range(self._repeats))))
        return found

    def decodes(self, rows: Sequence[int], adapters: Sequence[int], prompts: Sequence[int]) -> Points:
        """Time decoding steps: (1, adapters, rows, tokens in the cache)."""
        found: Points = []
        for count, number, prompt in itertools.product(rows, adapters, prompts):
            if count < number:
                continue
            for name in self._names[:number]:
                self._add(name, prompt, count // number, max_tokens=_DECODED + 4)
            while len(self._engine.sampler.schedule.running) < count // number * number:
                self._step()
            cached = sum(s.computed for s in self._engine.sampler.schedule.running) + count * _DECODED // 2
            seconds = min(self._step() for _ in range(_DECODED))
            while self._engine.sampler.has_work:
                self._step()
            found.append(((1, number, count, cached), seconds))
        return found

    def update(self) -> float:
        """Return the seconds of an optimizer step."""
        self._engine.train_rows([self._row(self._names[0])])
        return self._least(lambda: self._engine.optim_step(self._names[0], AdamParams()))

    def snapshot(self) -> float:
        """Return the seconds of a snapshot."""
        return self._least(lambda: self._engine.snapshot(self._names[0], self._names[0]))

    def write(self) -> float:
        """Return the seconds of writing a snapshot."""
        with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch:
            folders = (str(Path(scratch, str(i))) for i in itertools.count())
            return self._least(lambda: self._engine.write_snapshot(self._names[0], next(folders)))

    def _row(self, model_id: str) -> TrainRow:
        tokens = [1] * _ROW
        return TrainRow(model_id, Datum(tokens=tokens, targets=tokens, weights=[1.0] * _ROW), "cross_entropy", {}, True)

    def _add(self, sampler_id: str, prompt: int, samples: int, max_tokens: int) -> None:
        number = next(self._jobs)
        # Another first token each time: a prompt that is found in the cache costs nothing.
        tokens = [number % 1000 + 1, *range(1, prompt)]
        params = SamplingParams(max_tokens=max_tokens, seed=number, stop=[])
        self._engine.sampler.add(
            SampleJob(request_id=str(number), sampler_id=sampler_id, prompt=tokens, num_samples=samples, params=params)
        )

    def _step(self) -> float:
        with stopwatch() as watch:
            self._engine.sampler.step()
        return watch.seconds

    def _least(self, run: Callable[[], object]) -> float:
        seconds: list[float] = []
        for _ in range(self._repeats):
            with stopwatch() as watch:
                run()
            seconds.append(watch.seconds)
        return min(seconds)


def fit(points: Points) -> tuple[list[float], float]:
    """Return the coefficients, none below 0, of least squares of relative errors, and the mean relative error."""
    features = np.array([each for each, _ in points], float)
    seconds = np.array([took for _, took in points])
    kept = list(range(features.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(features[:, kept] / seconds[:, None], np.ones(len(seconds)), rcond=None)
        if (found >= 0).all():
            break
        # What would be negative is nothing; the rest is fitted without it.
        kept.pop(int(found.argmin()))
    coefficients = np.zeros(features.shape[1])
    coefficients[kept] = found
    error = float(np.mean(np.abs(features @ coefficients / seconds - 1)))
    return coefficients.tolist(), error


def measure(measured: Measured, largest: int, adapters: Sequence[int], rows: Sequence[int]) -> tuple[Costs, Column]:
    """Return the costs, and how far off each straight line is on average."""
    sizes = [size for size in (128, 512, 2048, 8192) if size <= largest]
    train, train_error = fit(measured.passes(sizes, adapters))
    prefill, prefill_error = fit(measured.prefills(sizes, adapters))
    decode, decode_error = fit(measured.decodes(rows, adapters, (16, 256)))
    costs = Costs(
        pass_s=train[0],
        pass_adapter_s=train[1],
        pass_token_s=train[2],
        # Decoding has most steps by far.
        step_s=decode[0],
        step_adapter_s=decode[1],
        prefill_token_s=prefill[2],
        decode_row_s=decode[2],
        cached_token_s=decode[3],
        update_s=measured.update(),
        small_s=measured.snapshot(),
        write_s=measured.write(),
    )
    column = Column("measured")
    for name, value in asdict(costs).items():
        column.add(name, 1e3 * value, "ms", higher_is_better=False)
    for name, error in (("passes", train_error), ("prefill", prefill_error), ("decoding", decode_error)):
        column.add(f"{name}, mean error of the line", 100 * error, "%", higher_is_better=False)
    return costs, column


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=str(path()), help="folder or hub id; default: the embedded model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size, of which the fastest counts")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the costs here")
    return parser.parse_args(words)


def main() -> None:
    """Measure, print the table and write the costs."""
    args = parse_arguments()
    settings = Settings()
    engine = Engine.load("measured", args.model, args.device, args.dtype, settings)
    adapters, rows = ((1, 2), (2, 4)) if args.quick else ((1, 4, 16), (1, 16, 64))
    largest = 128 if args.quick else min(settings.max_tokens_per_pass, settings.prefill_tokens)
    measured = Measured(engine, max(adapters), args.rank, args.repeats)
    costs, column = measure(measured, largest, adapters, rows)
    facts = conditions(model=Path(args.model).name, device=args.device, dtype=args.dtype, rank=args.rank)
    show("Costs of an engine", [column], baseline=None, facts=facts)
    if args.json:
        args.json.write_text(json.dumps(asdict(costs), indent=1) + "\n")


if __name__ == "__main__":
    main()
