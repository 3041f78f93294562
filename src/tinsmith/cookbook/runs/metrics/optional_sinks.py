"""The sinks that a person asks for: Weights & Biases and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.cookbook.runs.metrics.sinks import Sinks
from tinsmith.cookbook.runs.metrics.tensorboard_sink import TensorBoardSink, check_tensorboard
from tinsmith.cookbook.runs.metrics.wandb_sink import WandbSink, check_wandb
from tinsmith.cookbook.runs.run_config import RunConfig


def check_sinks(config: RunConfig) -> None:
    """Check that the sinks of a config can be used, before anything of the run is written.

    Raises:
        UserError: one cannot; names the package or the key that is missing.
    """
    if config.wandb_project is not None:
        check_wandb(config.wandb_project)
    if config.tensorboard:
        check_tensorboard()


def open_sinks(config: RunConfig, sinks: Sinks, folder: Path, first_step: int, described: Mapping[str, Any]) -> None:
    """Add the sinks of a config.

    Args:
        config: says which.
        sinks: where they are added.
        folder: takes the files of both.
        first_step: where a run that is taken up again goes on.
        described: all settings as JSON values, for the page of the run at W&B.
    """
    if config.wandb_project is not None:
        sinks.add(WandbSink(config.wandb_project, config.wandb_name, folder, described))
    if config.tensorboard:
        sinks.add(TensorBoardSink(folder, first_step))
