"""Metrics to Weights & Biases: one run there for one run folder, however often it is taken up again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.installing import package_command
from tinsmith.types.errors import UserError, invalid

_ID_FILE = "wandb_id"
# Modes in which nothing is sent, so no key is needed.
_WITHOUT_KEY = ("offline", "dryrun", "disabled")
_FINISH_S = 60.0
_INIT_S = 30.0


class WandbSink:
    """A run of Weights & Biases.

    The axis of all charts is the metric `step`, so a step that is done anew is drawn where it belongs.

    Args:
        project: its project.
        name: of the run there; None takes that of the folder.
        folder: of the run; the id of the run there is kept in it.
        config: all settings, for the run's page there.

    Raises:
        UserError: the service cannot be reached.
    """

    name = "wandb"

    def __init__(self, project: str, name: str | None, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=_INIT_S, finish_timeout=_FINISH_S)
        try:
            self._run = wandb.init(
                project=project,
                name=name or folder.name,
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                config=dict(config),
                settings=settings,
            )
        except wandb.Error as error:
            raise _unreachable(project, error) from error
        # W&B's own step only rises, and would drop the rows that a resumed run does anew.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._run.log({"step": step, **metrics})

    def close(self, *, failed: bool) -> None:
        """Send what is left and end."""
        self._run.finish(exit_code=int(failed))


def check_wandb(project: str) -> None:
    """Check that Weights & Biases can be used, before anything of a run is written.

    Raises:
        UserError: wandb is not installed, there is no key, or the key is refused.
    """
    try:
        import wandb
    except ModuleNotFoundError:
        raise invalid("wandb_project", project, f"wandb to be installed: {package_command('wandb')}") from None
    if os.environ.get("WANDB_MODE") in _WITHOUT_KEY:
        return
    try:
        # Never a prompt: a run on a cluster would wait for an answer for ever.
        has_key = wandb.login(prompt=False)
    except wandb.Error as error:
        raise _unreachable(project, error) from error
    if not has_key:
        raise invalid(
            "wandb_project",
            project,
            "a key of Weights & Biases: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline",
        )


def _unreachable(project: str, error: Exception) -> UserError:
    expected = (
        f"a project that can be reached with the key there is ({error}); WANDB_MODE=offline keeps the metrics in the "
        "run's folder"
    )
    return invalid("wandb_project", project, expected)


def _run_id(folder: Path) -> str:
    file = folder / _ID_FILE
    # Drawn once and kept with the run: `resume="allow"` goes by it.
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
