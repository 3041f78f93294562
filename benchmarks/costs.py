"""What a token costs, by how many tenants and sequences share a pass and by how long the context is.

python -m benchmarks.costs --picture docs/costs.svg       # a model of 5M parameters, made on the spot: some two minutes
python -m benchmarks.costs --model FOLDER_OR_HUB_ID --dtype bfloat16
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.common import Column, conditions, equal_lengths, show, write_json
from benchmarks.contestants import Job
from benchmarks.engine import sequences
from benchmarks.gpu.shapes import write
from benchmarks.targets.bench import SMALL
from benchmarks.targets.sides import MakePool, Side, own_process
from tinsmith.cluster.child_environment import engine_environment
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams

UNIT = "µs/token"
TRAINING, DECODE = "training", "decode"


@dataclass(frozen=True)
class Load:
    """One point: who computes how much at once.

    Attributes:
        tenants: adapters, each with its share of the sequences.
        sequences: of all of them.
        context: tokens of a sequence; in front of the token that is decoded.
    """

    tenants: int
    sequences: int
    context: int


@dataclass(frozen=True)
class Axis:
    """One row of points; what does not vary is small.

    Attributes:
        name: of the axis.
        sizes: along it.
        load: makes the point of a size.
    """

    name: str
    sizes: Sequence[int]
    load: Callable[[int], Load]


def axes(tenants: int, most: int, longest: int, length: int) -> list[Axis]:
    """Return the axes, each from one (or 32 tokens) in doublings.

    Args:
        tenants, most, longest: where the axes end: tenants, sequences of one tenant, tokens of one sequence.
        length: tokens of a sequence where its length is not what varies.
    """
    return [
        Axis("tenants with a sequence each", _doublings(1, tenants), lambda n: Load(n, n, length)),
        Axis("sequences of one tenant", _doublings(1, most), lambda n: Load(1, n, length)),
        Axis("tokens of context, one sequence", _doublings(32, longest), lambda n: Load(1, 1, n)),
    ]


def _doublings(first: int, last: int) -> list[int]:
    sizes = [first]
    while sizes[-1] * 2 <= last:
        sizes.append(sizes[-1] * 2)
    return sizes


USUAL = axes(64, 256, 4096, 64)
QUICK = axes(2, 2, 64, 8)


class Costs:
    """An engine with adapters and a sampler of each."""

    def __init__(self, job: Job) -> None:
        self._engine = Engine.load("costs", job.model, job.device, job.dtype, Settings(max_decode_batch=1024))
        self._names = job.names
        self._jobs = 0
        for seed, name in enumerate(job.names):
            self._engine.create_model(name, LoraConfig(rank=job.rank, seed=seed))
            self._engine.snapshot(name, name)

    def training(self, load: Load, repeats: int) -> float:
        """Return the median seconds of a pass and a step of each tenant, per token."""
        ids = sequences(equal_lengths(load.sequences, load.context), self._engine.info.vocab_size)
        rows = [
            TrainRow(self._names[i % load.tenants], Datum(tokens=s[:-1], targets=s[1:]), "cross_entropy", {}, True)
            for i, s in enumerate(ids)
        ]

        def step() -> None:
            for output in self._engine.train_rows(rows):
                if isinstance(output, Exception):
                    raise output
            for name in self._names[: load.tenants]:
                self._engine.optim_step(name, AdamParams(learning_rate=1e-4))

        return _median_s(step, repeats) / (load.sequences * load.context)

    def decode(self, load: Load, repeats: int) -> float:
        """Return the median seconds of a step that decodes a token of each sequence, per token."""
        sampler = self._engine.sampler
        params = SamplingParams(max_tokens=10**6, seed=0, stop=[])
        prompts = sequences(equal_lengths(load.sequences, load.context - 1), self._engine.info.vocab_size)
        names = [f"job{self._jobs + i}" for i in range(load.sequences)]
        self._jobs += load.sequences
        for i, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
            adapter = self._names[i % load.tenants]
            sampler.add(SampleJob(request_id=name, sampler_id=adapter, prompt=prompt, num_samples=1, params=params))
        while len(sampler.schedule.running) < load.sequences:
            sampler.step()
        # The medians of at least eight: a step is short.
        seconds = _median_s(sampler.step, max(8, repeats))
        for name in names:
            sampler.cancel(name)
        return seconds / load.sequences


def _median_s(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def measure(job: Job, axes: Sequence[Axis], repeats: int, pool: MakePool = own_process) -> list[Column]:
    """Return a column of training and one of decoding, in microseconds per token."""
    columns = [Column(TRAINING), Column(DECODE)]
    side = Side("tinsmith engine", Costs, job, engine_environment(os.environ), pool)
    try:
        for axis in axes:
            for size in axis.sizes:
                for column, function in zip(columns, (Costs.training, Costs.decode), strict=True):
                    seconds = side.call(function, axis.load(size), repeats)
                    column.add(f"{axis.name}: {size}", seconds * 1e6, UNIT, higher_is_better=False)
    finally:
        side.close()
    return columns


def save_picture(axes: Sequence[Axis], columns: Sequence[Column], path: Path, title: str) -> None:
    """Draw a plot for each axis, both scales logarithmic."""
    figure = Figure(figsize=(4.2 * len(axes), 4), layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for plot, axis in zip(plots, axes, strict=True):
        for column in columns:
            found = [column.get(f"{axis.name}: {size}") for size in axis.sizes]
            plot.plot(axis.sizes, [one.value for one in found if one], marker=".", label=column.system)
        plot.set(xlabel=axis.name, xscale="log", yscale="log")
        plot.set_xscale("log", base=2)
        plot.xaxis.set_major_formatter("{x:,.0f}")
        plot.grid(alpha=0.3)
    plots[0].set_ylabel(UNIT)
    plots[0].legend()
    figure.suptitle(title)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tinsmith"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure, print the table, and write picture and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; default: 5M random parameters, made on the spot")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64"])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="training steps of which a figure is the median")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--picture", type=Path, help="write the curves here: .svg or .png")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    points = QUICK if args.quick else USUAL
    facts = conditions(
        model=args.model or SMALL.name, device=args.device, dtype=args.dtype, rank=args.rank, repeats=args.repeats
    )
    with tempfile.TemporaryDirectory(prefix="tinsmith-costs-") as scratch:
        if args.model is None:
            write(SMALL, Path(scratch) / "model", "cpu")
        model = args.model or str(Path(scratch) / "model")
        adapters = max(axis.load(size).tenants for axis in points for size in axis.sizes)
        job = Job(model, args.device, args.dtype, args.rank, adapters, Path(scratch))
        with Console().status("measuring"):
            columns = measure(job, points, args.repeats)
    title = f"Time per token, {facts['model']}, {args.dtype}"
    show(title, columns, baseline=None, facts=facts)
    if args.picture:
        save_picture(points, columns, args.picture, title)
    if args.json:
        write_json(args.json, columns, facts)


if __name__ == "__main__":
    main()
