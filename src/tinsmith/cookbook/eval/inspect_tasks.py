"""Tasks of Inspect AI as an evaluator."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith import SamplingClient
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.cookbook.renderers import Renderer
from tinsmith.installing import package_command
from tinsmith.types.errors import TinsmithError, invalid

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog


class InspectEvaluator:
    """Runs tasks of Inspect AI on the weights as they are; metrics are `eval/TASK/SCORER/METRIC`.

    Args:
        task: an Inspect `Task`, or a file with tasks (`mmlu.py`, or `mmlu.py@name` for one of them).
        task_args: arguments of the tasks of a file.
        limit: samples of each task; None takes all.
        epochs: how often each sample is asked; None takes the task's own number.
        max_tokens: longest answer; None goes up to the context.
        temperature: 0 is greedy; above, the sampling is seeded.
        log_dir: where Inspect's logs go, for `inspect view`; None keeps none.

    Raises:
        UserError: the package `inspect-ai` is not installed, or the file does not exist.
    """

    def __init__(
        self,
        task: Task | str | Path,
        *,
        task_args: Mapping[str, Any] | None = None,
        limit: int | None = None,
        epochs: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        log_dir: str | Path | None = None,
    ) -> None:
        require_inspect()
        if isinstance(task, str | Path):
            file = Path(str(task).partition("@")[0])
            if not file.is_file():
                raise invalid("task", str(task), "a file with tasks of Inspect AI, perhaps with @NAME behind it")
            task = str(task)
        self.name = f"inspect {task if isinstance(task, str) else task.name}"
        self._task = task
        self._task_args = dict(task_args or {})
        self._limit = limit
        self._epochs = epochs
        self._settings = {"max_tokens": max_tokens, "temperature": temperature}
        self._log_dir = log_dir

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Run the tasks.

        Raises:
            TinsmithError: a task did not come to its end; the message has Inspect's.
        """
        name = context.model_path or context.model_name
        return self.run(context.sampling_client, context.renderer, name, context.seed)

    def run(self, sampler: SamplingClient, renderer: Renderer, model: str, seed: int = 0) -> dict[str, float]:
        """Run the tasks on any sampling client.

        Args:
            sampler: whose answers.
            renderer: of its model.
            model: name that stands in Inspect's logs.
            seed: of the first request of each prompt; the n-th after it takes `seed + n`.

        Raises:
            TinsmithError: a task did not come to its end; the message has Inspect's.
        """
        # Here and not above: importing Inspect takes seconds, and most runs have no task of it.
        from inspect_ai import eval as run_tasks
        from inspect_ai.model import GenerateConfig, get_model

        from tinsmith.cookbook.eval import inspect_provider

        api = f"{inspect_provider.PROVIDER}/{model}"
        config = GenerateConfig(seed=seed, **self._settings)
        # Not memoized: Inspect keeps models by name, and would ask the weights of the first evaluation again.
        opened = get_model(api, config=config, memoize=False, sampling_client=sampler, renderer=renderer)
        with tempfile.TemporaryDirectory() as scratch, _logging_as_it_is():
            logs = run_tasks(
                _found_from_here(self._task),
                model=opened,
                task_args=self._task_args,
                limit=self._limit,
                epochs=self._epochs,
                log_dir=str(Path(self._log_dir or scratch).absolute()),
                display="none",
            )
        if not logs:
            raise invalid("task", str(self._task), "a file with at least one task of Inspect AI in it")
        return {key: value for log in logs for key, value in metrics_of(log).items()}


def metrics_of(log: EvalLog) -> dict[str, float]:
    """Return the metrics of a finished task: `eval/TASK/SCORER/METRIC`.

    Raises:
        TinsmithError: the task is not finished.
    """
    task = log.eval.task.rpartition("/")[2]
    if log.status != "success" or log.results is None:
        reason = log.error.message if log.error else log.status
        raise TinsmithError(f"inspect task {task}: {reason}")
    return {
        f"eval/{task}/{score.name}/{name}": float(metric.value)
        for score in log.results.scores
        for name, metric in score.metrics.items()
    }


def require_inspect() -> None:
    """Check that Inspect AI is there.

    Raises:
        UserError: it is not.
    """
    try:
        import inspect_ai  # noqa: F401
    except ImportError as error:
        raise invalid("inspect-ai", "no such package", f"it installed: {package_command('inspect-ai')}") from error


@contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Take away, in the end, what Inspect adds to the program's logging: it stays on where the program goes on."""
    # Inspect sets the root logger up for a program of its own.
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _found_from_here(task: Task | str) -> Task | str:
    """Return a task as Inspect looks for it: a file is a pattern from the current folder, never an absolute path."""
    if not isinstance(task, str):
        return task
    file, at, _ = task.partition("@")
    return task if at else glob.escape(os.path.relpath(file))
