"""Where the time of a training step and of a decode step goes, and how near the device's ceilings it comes.

python -m benchmarks.gpu.profiles --model FOLDER --device cuda --dtype bfloat16 --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import conditions, random_tokens
from benchmarks.gpu.ceilings import seconds
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams

_ROWS = 25


def training_step(engine: Engine, batch: int, length: int) -> Callable[[], None]:
    """Return a forward_backward of `batch` sequences and a step of the optimizer."""
    rng = np.random.default_rng(0)
    ids = [random_tokens(rng, length + 1, engine.info.vocab_size) for _ in range(batch)]
    rows = [TrainRow("run", Datum(tokens=i[:-1], targets=i[1:]), "cross_entropy", {}, True) for i in ids]

    def step() -> None:
        for output in engine.train_rows(rows):
            if isinstance(output, Exception):
                raise output
        engine.optim_step("run", AdamParams(learning_rate=1e-4))

    return step


def decode_steps(engine: Engine, sequences: int, context: int, steps: int) -> Callable[[], None]:
    """Return `steps` decode steps of a full batch; those of the prompts come before, and none ends meanwhile."""
    rng = np.random.default_rng(1)
    numbers = iter(range(1 << 30))

    def begin() -> None:
        for _ in range(sequences):
            params = SamplingParams(max_tokens=10**6, seed=0, stop=[])
            prompt = random_tokens(rng, context, engine.info.vocab_size)
            engine.sampler.add(make_job(f"job{next(numbers)}", prompt, params))
        while len(engine.sampler.schedule.running) < sequences:
            engine.sampler.step()

    begin()

    def some() -> None:
        for _ in range(steps):
            engine.sampler.step()

    return some


def make_job(request_id: str, prompt: list[int], params: SamplingParams) -> SampleJob:
    """One sample of a prompt."""
    return SampleJob(request_id=request_id, sampler_id="sampler", prompt=prompt, num_samples=1, params=params)


def met_weights(engine: Engine) -> int:
    """Return how many weights one token is multiplied with: no embedding, and of experts those that it is sent to."""
    return sum(t.inputs * t.outputs * (t.experts_per_token if t.experts else 1) for t in engine.base.targets)


def measure(engine: Engine, sizes: dict[str, int], out: Path, device: str) -> dict[str, object]:
    """Profile both; return the figures and write a table and a trace of each.

    Args:
        engine: loaded.
        sizes: batch, length, sequences, context, steps.
        out: folder of the tables and traces.
        device: to wait for.
    """
    engine.create_model("run", LoraConfig(rank=32, train_unembed=False))
    engine.snapshot("run", "sampler")
    found: dict[str, object] = {}
    step = training_step(engine, sizes["batch"], sizes["length"])
    taken = seconds(step, device, 3)
    tokens = sizes["batch"] * sizes["length"]
    # Forward and the gradient of the activations: two products with each weight, of two operations per element.
    found["training"] = {"tokens/s": tokens / taken, "TFLOP/s": 4 * met_weights(engine) * tokens / taken / 1e12}
    _profile(step, out / "training", device)
    decode = decode_steps(engine, sizes["sequences"], sizes["context"], sizes["steps"])
    taken = seconds(decode, device, 3) / sizes["steps"]
    # Of experts all, because a batch of this size meets nearly all of them.
    weights = sum(t.inputs * t.outputs * max(1, t.experts) for t in engine.base.targets)
    read = weights * engine.base.dtype.itemsize
    found["decode"] = {
        "ms/step": 1000 * taken,
        "tokens/s": sizes["sequences"] / taken,
        "GB/s of weights": read / taken / 1e9,
    }
    _profile(decode, out / "decode", device)
    if device.startswith("cuda"):
        found["peak memory, GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def _profile(work: Callable[[], None], target: Path, device: str) -> None:
    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    target.with_suffix(".txt").write_text(found.key_averages().table(sort_by=order, row_limit=_ROWS))
    found.export_chrome_trace(str(target.with_suffix(".json.gz")))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, tables and traces")
    for name, default in (("batch", 8), ("length", 1024), ("sequences", 128), ("context", 512), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(max_decode_batch=args.sequences, max_tokens_per_pass=max(16384, args.length))
    engine = Engine.load("profiled", args.model, args.device, args.dtype, settings)
    sizes = {name: getattr(args, name) for name in ("batch", "length", "sequences", "context", "steps")}
    found = measure(engine, sizes, args.out, args.device) | {"conditions": conditions(**sizes)}
    (args.out / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
