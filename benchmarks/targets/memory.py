"""The row of memory: how much more a process holds during a training step than before it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import equal_lengths
from benchmarks.contestants import Batch, Contestant
from benchmarks.engine import sequences
from benchmarks.targets.bench import Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sizes import Sizes

_MIB = 2**20
_SELF = Path("/proc/self")


def memory(bench: Bench, sizes: Sizes, target: float) -> Result:
    """Peak of a step above what the model and its adapters hold."""
    count, length = sizes.long
    batch = sequences(equal_lengths(count, length), bench.vocab_size)
    first = bench.job.names[0]
    ours, beside = (side.call(peak_above, first, batch) / _MIB for side in (bench.ours, bench.plain))
    what = f"memory of a step, {count}x{length}, beside transformers + PEFT"
    return Result("memory", what, bench.label, "MiB", ours, beside, ours / beside, target, at_most=True)


def peak_above(contestant: Contestant, adapter: str, batch: Batch) -> int:
    """Return the bytes by which this process grows during a step on a batch; a small step has gone before."""
    contestant.train({adapter: _first(batch)})
    return peak_of(lambda: contestant.train({adapter: batch}))


def peak_of(work: Callable[[], object]) -> int:
    """Return the bytes by which this process grows while it does some work."""
    gc.collect()
    # What was freed and kept for later would hide as much of it. (/proc, so glibc in all likelihood.)
    ctypes.CDLL(None).malloc_trim(0)
    held = _status("VmRSS")
    # From <Documentation/filesystems/proc.rst>: 5 sets the peak to what is held now.
    (_SELF / "clear_refs").write_text("5")
    work()
    return _status("VmHWM") - held


def _first(batch: Batch) -> Sequence[Sequence[int]]:
    return [batch[0][:9]]


def _status(field: str) -> int:
    """Return a size of this process, bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", (_SELF / "status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status: got no {field}, expected it as Linux has it")
    return int(found[1]) * 1024
