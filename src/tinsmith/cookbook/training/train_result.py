"""What a run came to, whether it ended now or was finished before."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tinsmith.cookbook.runs import Run


class TrainResult(NamedTuple):
    """What a run came to.

    Attributes:
        path: the run's folder, with metrics, checkpoints and transcripts.
        steps: steps of the whole run.
        metrics: of the final evaluation; empty where somebody has removed the record of a run that was finished before.
        state_path: the final training state.
        sampler_path: the final weights, to sample from.
    """

    path: Path
    steps: int
    metrics: dict[str, float]
    state_path: str
    sampler_path: str


def result_of(run: Run, steps: int, metrics: dict[str, float]) -> TrainResult:
    """Return the result of a run that has its final checkpoint."""
    # `save_final` or `is_finished` came before, and each leaves it.
    assert run.final is not None
    return TrainResult(run.path, steps, metrics, *run.final)
