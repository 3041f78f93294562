"""The skeleton of every trainer: `training_loop` asks it for one step after the other and does all the rest.

`training_config` has the settings that trainers share, `learning_rates` the rate of each step, `model_setup` service,
tokenizer and renderer, `evaluation` what is measured in between, `train_result` what a run came to.

A trainer brings `submit(step)`, which hands the operations of one step to the service and returns without waiting, and
a `SubmittedStep`, whose `metrics()` waits. That is all that the loop knows of it, so a step may be more than one
forward-backward and one optimizer step: several substeps over a batch of rollouts, and a snapshot for the sampler at
their end, are operations of the same `submit`; numbers of its own (rewards, KL) are part of its `metrics`.

Trainers block, and stay so. Rollouts of reinforcement learning live on an event loop in a thread of its own, which
hands over finished groups; `submit(step)` takes the groups of its step from there (`cookbook/rl`). Synchronous,
streaming and asynchronous training are this one loop with one dial, on the side of the rollouts: how many steps
sampling may run ahead of the weights that it samples from.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.training.evaluation import Evaluation
from tinsmith.cookbook.training.learning_rates import LearningRates
from tinsmith.cookbook.training.model_setup import ModelSetup, set_up_model
from tinsmith.cookbook.training.train_result import TrainResult
from tinsmith.cookbook.training.training_config import TrainingConfig
from tinsmith.cookbook.training.training_loop import SubmittedStep, Trainer, run_trainer

__all__ = [
    "Evaluation",
    "LearningRates",
    "ModelSetup",
    "SubmittedStep",
    "TrainResult",
    "Trainer",
    "TrainingConfig",
    "run_trainer",
    "set_up_model",
]
