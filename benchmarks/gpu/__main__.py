"""Everything that the first minutes on a GPU machine should tell: `make gpu`, or `python -m benchmarks.gpu`.

The machine's own ceilings, the `gpu` tests, then on random checkpoints of real shapes, smallest first, the profile of a
training and of a decode step and the engine beside transformers + PEFT. Each result lies in the output folder as soon
as it is there, so that a run that is cut off has told what it knew.

python -m benchmarks.gpu --prepare build/wheels     # here, with a package index: collects what a bare machine lacks
python -m benchmarks.gpu --dry-run                  # every step at toy sizes on the CPU
python -m benchmarks.gpu --wheels build/wheels      # there
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.shapes import REAL, TOY
from benchmarks.gpu.steps import Plan, install, plan, run
from benchmarks.gpu.wheels import collect


def main() -> int:
    """Run the steps; return how many of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="where results go (default: build/gpu)")
    parser.add_argument("--minutes", type=float, default=8.0, help="when the last step must have ended")
    parser.add_argument("--models", nargs="+", choices=[s.short for s in REAL], help="default: all, smallest first")
    parser.add_argument(
        "--scratch", type=Path, help="where checkpoints are written (up to 40 GB); default: a temporary folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only collect wheels for a bare machine")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these first, beside what is there")
    args = parser.parse_args()
    if args.prepare:
        print(f"{len(collect(args.prepare))} wheels in {args.prepare}")
        return 0
    if not args.dry_run and not _has_device():
        parser.error("no CUDA device: use --dry-run to try the steps on a CPU")
    shapes = TOY if args.dry_run else [s for s in REAL if s.short in (args.models or [s.short])]
    args.out.mkdir(parents=True, exist_ok=True)
    site = install(args.wheels, args.out / "site") if args.wheels else None
    scratch = Path(tempfile.mkdtemp(prefix="tinsmith-gpu-", dir=args.scratch))
    try:
        wanted = Plan(shapes, "cpu" if args.dry_run else "cuda", args.out, scratch, args.dry_run)
        return run(plan(wanted), args.out, 60 * args.minutes, site)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _has_device() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
