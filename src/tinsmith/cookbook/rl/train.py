"""Reinforcement learning: groups of environments in, a trained adapter out, on the skeleton of `cookbook/training`."""

from __future__ import annotations

from collections.abc import Sequence

import chz

from tinsmith.cookbook.eval import Evaluator
from tinsmith.cookbook.rl.environment import MakeDataset, RLDataset
from tinsmith.cookbook.rl.learning.advantages import AdvantageFunction
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.cookbook.rl.trainer.config import FREE, RLConfig
from tinsmith.cookbook.rl.trainer.trainer import Objective, RLTrainer
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.training import Evaluation, LearningRates, ModelSetup, TrainResult, run_trainer, set_up_model
from tinsmith.cookbook.utils import recommended_rl_lr


def train(
    config: RLConfig,
    recipe: str,
    dataset: RLDataset | MakeDataset,
    *,
    evaluators: Sequence[Evaluator] = (),
    advantages: AdvantageFunction | None = None,
) -> TrainResult:
    """Learn from the groups of a data set; the same call on the same log path carries on where it stopped.

    Args:
        config: sizes, model, loss, and where the run lies.
        recipe: its name, which the run and its folder are called after.
        dataset: the groups, or a function that makes them for a model's renderer and tokenizer.
        evaluators: measured before the first step, every `eval_every` steps, and after the last.
        advantages: of the episodes of a group; None takes what `config.advantages` names.

    Returns:
        What the run came to; of a run that was finished already, too.

    Raises:
        UserError: a setting cannot be used, or another run has the log path.
        EnvError: an environment failed, and `on_env_error` does not go on.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same call carries on.
        TinsmithError: the service failed.
    """
    with Run(config, recipe, free=FREE) as run:
        model = set_up_model(run, config)
        groups = dataset if isinstance(dataset, RLDataset) else dataset(model)
        return train_on_groups(config, run, model, groups, evaluators=evaluators, advantages=advantages)


def train_on_groups(
    config: RLConfig,
    run: Run,
    model: ModelSetup,
    dataset: RLDataset,
    *,
    evaluators: Sequence[Evaluator] = (),
    advantages: AdvantageFunction | None = None,
    objective: Objective | None = None,
) -> TrainResult:
    """Do the same in a run that is open already, with a service that is, too.

    Args:
        config, dataset, evaluators, advantages: as of `train`.
        run, model: open.
        objective: what is minimised, `str` of it is what it is called; None is `config.loss_fn` on the advantages.
    """
    run.hold("groups", {**dataset.facts(), "kl_reference": config.kl_reference or config.model_name})
    if config.learning_rate is None:
        config = chz.replace(config, learning_rate=recommended_rl_lr(config.model_name))
    rates = LearningRates(config, config.max_steps or config.epochs * len(dataset))
    with RolloutThread() as thread:
        trainer = RLTrainer(config, model, dataset, rates, thread)
        if advantages is not None:
            trainer.advantages = advantages
        trainer.objective = objective
        facts = {
            "groups": f"{config.batch_size} of {config.group_size} episodes",
            "mode": _mode(config),
            "loss": config.loss_fn if objective is None else str(objective),
            "renderer": model.renderer.name,
        }
        return run_trainer(trainer, run, rates, Evaluation(config, run, model, evaluators), facts)


def _mode(config: RLConfig) -> str:
    told = []
    if config.max_steps_off_policy:
        told.append(f"asynchronous, at most {config.max_steps_off_policy} steps off-policy")
    if config.stream_minibatches:
        told.append(f"streaming, {config.stream_minibatches} minibatches per optimizer step")
    return ", ".join(told) or "synchronous"
