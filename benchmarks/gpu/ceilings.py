"""What the device can do at most: matrix products and copies, the two numbers that all others are compared with.

python -m benchmarks.gpu.ceilings --device cuda --json ceilings.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common import Column, conditions, show, write_json


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median time of `work`, after two runs that warm up."""
    times: list[float] = []
    for i in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        if i >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measure(device: str, size: int, copied: int, repeats: int = 10) -> Column:
    """Measure one device.

    Args:
        device: `cuda`, `cuda:N` or `cpu`.
        size: rows and columns of the square matrices.
        copied: bytes of the copy.
        repeats: each number is the median of so many.
    """
    column = Column(torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu")
    for dtype in (torch.bfloat16, torch.float32):
        # Random, because some devices are faster on zeros.
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, repeats)
        column.add(f"matrix product, {str(dtype).removeprefix('torch.')}", 2 * size**3 / taken / 1e12, "TFLOP/s")
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    taken = seconds(lambda: target.copy_(source), device, repeats)
    column.add("copy, read and written", 2 * source.nbytes / taken / 1e9, "GB/s")
    return column


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    sizes = (128, 2**20, 2) if args.quick else (8192, 2**32, 10)
    column = measure(args.device, *sizes)
    facts = conditions(torch=torch.__version__, cuda=torch.version.cuda)
    show("Ceilings", [column], baseline=column.system, facts=facts)
    if args.json:
        write_json(args.json, [column], facts)


if __name__ == "__main__":
    main()
