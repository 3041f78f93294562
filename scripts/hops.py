"""Counts the files that one training step, and one sample, pass on their way from the script to the engine and back.

    python scripts/hops.py            # a table: room, files
    python scripts/hops.py --files    # each file by name, too

A file counts when one of its functions runs between the call and its result, on any thread of the process: the service
is embedded, so client, server, scheduler and engine are all here. Only files that run in each of several repetitions
count, because heartbeats and sweeps fall into some of them. The first step and the first sample are left out, because
they build what later ones only use.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_TIMES = 7


class Trace:
    """Notes which files of the package run while it is `on`."""

    def __init__(self, root: Path) -> None:
        self._root = str(root) + "/"
        self.on = False
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(self._root):
            self.files.add(frame.f_code.co_filename.removeprefix(self._root))

    def during(self, work: Callable[[], object]) -> set[str]:
        """Return the files that run every time `work` does."""
        runs: list[set[str]] = []
        for _ in range(_TIMES):
            self.files = set()
            self.on = True
            work()
            self.on = False
            runs.append(self.files)
            time.sleep(0.2)  # what the last one left to do in the background belongs to none
        return set.intersection(*runs)


def main(show_files: bool) -> None:
    """Trace one step and one sample against the embedded service, and print how many files of each room they pass."""
    import tinsmith
    from tinsmith.types import Datum, ModelInput, SamplingParams

    trace = Trace(Path(tinsmith.__file__).parent)
    # Before the first client: threads take the profile function over when they start.
    threading.setprofile(trace)
    sys.setprofile(trace)

    training = tinsmith.ServiceClient().create_lora_training_client(base_model="tinsmith-tiny", rank=8)
    datum = Datum(tokens=list(range(10, 20)), targets=list(range(11, 21)), weights=[1.0] * 10)

    def step() -> None:
        training.forward_backward([datum], loss_fn="cross_entropy")
        training.optim_step(tinsmith.AdamParams(learning_rate=1e-4)).result()

    step()
    sampler: Any = training.save_weights_and_get_sampling_client()

    def sample() -> None:
        sampler.sample(ModelInput.from_ints([10, 11, 12]), 1, SamplingParams(max_tokens=4)).result()

    sample()
    _print("training step", trace.during(step), show_files)
    _print("sample", trace.during(sample), show_files)


def _print(name: str, files: set[str], show_files: bool) -> None:
    rooms: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        rooms[file.split("/")[0]].append(file)
    print(f"{name}: {len(files)} files: " + ", ".join(f"{room} {len(inside)}" for room, inside in rooms.items()))
    if show_files:
        print("\n".join(f"  {file}" for inside in rooms.values() for file in inside))


if __name__ == "__main__":
    main("--files" in sys.argv[1:])
