"""A task of Inspect AI on a base model or a checkpoint.

python -m tinsmith.cookbook.eval.run_inspect task=mmlu.py model_path=tinker://... limit=100
python -m tinsmith.cookbook.eval.run_inspect task=mmlu.py model_name=Qwen/Qwen3-8B log_dir=logs
"""

from __future__ import annotations

import json
from typing import Any

import chz

import tinsmith
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.eval.inspect_tasks import InspectEvaluator
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid
from tinsmith.types.names.paths import CheckpointPath


def _checkpoint(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None:
        CheckpointPath.parse(value, field.removeprefix("X_"))


@chz.chz
class Config:
    """Which task, on which weights."""

    task: str | None = chz.field(default=None, doc="a file with tasks, mmlu.py, or one of its tasks, mmlu.py@name")
    model_path: str | None = chz.field(
        default=None, validator=_checkpoint, doc="tinker:// weights to sample from; None: the base model"
    )
    model_name: str | None = chz.field(default=None, doc="the base model; None: that of model_path")
    base_url: str | None = chz.field(default=None, doc="the service; None: TINSMITH_BASE_URL, else in this process")
    renderer_name: str | None = chz.field(default=None, doc="chat format; None: the model's own")
    task_args: str | None = chz.field(default=None, doc='arguments of the task as JSON, {"split": "test"}')
    limit: int | None = chz.field(default=None, validator=at_least(1), doc="samples; None: all")
    epochs: int | None = chz.field(default=None, validator=at_least(1), doc="how often each is asked; None: the task's")
    max_tokens: int | None = chz.field(default=None, validator=at_least(1), doc="longest answer; None: the context")
    temperature: float = chz.field(default=0.0, doc="0: greedy")
    seed: int = chz.field(default=0, doc="of the sampling")
    log_dir: str | None = chz.field(default=None, doc="folder of Inspect's logs, for `inspect view`; None: none")


def main(config: Config) -> dict[str, float]:
    """Run the task and print its metrics.

    Raises:
        UserError: a setting cannot be used, or `inspect-ai` is not installed.
        TinsmithError: the task did not come to its end.
    """
    if config.task is None:
        raise invalid("task", None, "a file with tasks of Inspect AI: task=mmlu.py")
    if config.model_path is None and config.model_name is None:
        raise invalid("model_name", None, "a model's name, or model_path=tinker://...")
    # Before the service is asked for anything: a missing package or file is known at once.
    evaluator = InspectEvaluator(
        config.task,
        task_args=_json(config.task_args),
        limit=config.limit,
        epochs=config.epochs,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        log_dir=config.log_dir,
    )
    opened = Completer.open(
        tinsmith.ServiceClient(base_url=config.base_url),
        # Saved weights say themselves what their base is; a name beside them is only compared.
        base_model=config.model_name if config.model_path is None else None,
        model_path=config.model_path,
        renderer_name=config.renderer_name,
    )
    name = opened.sampler.get_base_model()
    if config.model_name is not None and config.model_name != name:
        raise invalid("model_name", config.model_name, f"{name}, the base of {config.model_path}, or none")
    metrics = evaluator.run(opened.sampler, opened.renderer, config.model_path or name, config.seed)
    for key, value in metrics.items():
        print(f"{key} {value:.4f}")
    return metrics


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise invalid("task_args", text, f"a JSON object ({error.msg})") from None
    if not isinstance(found, dict):
        raise invalid("task_args", text, "a JSON object")
    return found


if __name__ == "__main__":
    run_recipe(main, Config, "run_inspect")
