"""A step of reinforcement learning that the service has: what it waits for, and what its row of metrics says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinsmith import APIFuture, ForwardBackwardOutput, OptimStepResponse
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.cookbook.rl.learning.group_examples import GroupExamples, examples_in
from tinsmith.cookbook.rl.learning.policy_metrics import action_logprobs, clip_share, kl_estimates
from tinsmith.cookbook.rl.trainer.config import RLConfig
from tinsmith.cookbook.rl.trainer.env_metrics import env_metrics
from tinsmith.cookbook.rl.trainer.pages import show_groups, show_learned
from tinsmith.cookbook.runs import Transcript
from tinsmith.cookbook.training import SubmittedStep

# What only those care about who learn from rewards.
_OF_REWARDS = ("env/reward", "env/reward_std", "env/constant_reward_share")


@dataclass
class ForwardedPart:
    """Examples that one `forward_backward` has.

    Attributes:
        examples: E sequences.
        output: of them.
        reference_kl: their mean log ratio to the reference, in nats per token; None where there is no reference.
        measured: what the objective measured, by name: a sum over tokens, and their number.
    """

    examples: list[Example]
    output: APIFuture[ForwardBackwardOutput]
    reference_kl: float | None = None
    measured: Mapping[str, tuple[float, int]] = field(default_factory=dict[str, "tuple[float, int]"])

    def logprobs(self) -> tuple[Any, Any, Any]:
        """Wait, and return q, p and advantage of every action token."""
        return action_logprobs(self.examples, self.output.result().loss_fn_outputs)


@dataclass
class SubmittedRLStep(SubmittedStep):
    """A step whose operations the service has.

    Attributes:
        step: its number.
        config: of the run.
        learning_rate: of its optimizer steps.
        tokenizer: spells what is shown.
        groups: all groups of the batch, with what is learned from them.
        parts: what was forwarded.
        optim_steps: one for each substep that had something to learn.
        facts: numbers that were known when the step was submitted.
        of_rewards: whether it learns from rewards; otherwise nobody is told of them.
    """

    step: int
    config: RLConfig
    learning_rate: float
    tokenizer: Any
    groups: list[GroupExamples] = field(default_factory=list[GroupExamples])
    parts: list[ForwardedPart] = field(default_factory=list[ForwardedPart])
    optim_steps: list[APIFuture[OptimStepResponse]] = field(default_factory=list[APIFuture[OptimStepResponse]])
    facts: dict[str, float] = field(default_factory=dict[str, float])
    of_rewards: bool = True

    def metrics(self) -> Mapping[str, float]:
        """Wait for all operations and return the step's row."""
        groups = [learned.group for learned in self.groups]
        # The order of the names is the order in which the console shows them: the reward first.
        found = env_metrics(groups)
        if not self.of_rewards:
            found = {name: value for name, value in found.items() if name not in _OF_REWARDS}
        found |= self._policy_metrics()
        found |= {
            "train/examples": sum(len(learned.examples) for learned in self.groups),
            "train/trained_tokens": sum(example.trained_tokens for example in examples_in(self.groups)),
            "train/optimizer_steps": len(self.optim_steps),
            "learning_rate": self.learning_rate,
        }
        ages = [self.step - group.sampler_step for group in groups]
        if ages:
            found |= {"rollout/sampler_age": max(ages), "rollout/sampler_age_mean": sum(ages) / len(ages)}
        for name, value in (self.optim_steps[-1].result().metrics or {} if self.optim_steps else {}).items():
            found[f"optim/{name}"] = value
        return found | self.facts

    def show(self, page: Transcript) -> None:
        """Show the first groups: what was said, token by token, with logprobs, advantages and rewards."""
        show = show_groups if self.of_rewards else show_learned
        show(page, self.tokenizer, self.groups[: self.config.groups_shown])

    def kl_now(self) -> float:
        """Wait for what was forwarded last and return KL(sampler || learner) over it, 0 where nothing was."""
        if not self.parts:
            return 0.0
        q, p, _ = self.parts[-1].logprobs()
        return kl_estimates(q, p).get("kl_sampler_learner", 0.0)

    def _policy_metrics(self) -> dict[str, float]:
        if not self.parts:
            return {}
        # `sum` of the parts: the losses of a batch add up.
        loss = sum(part.output.result().metrics["loss:sum"] for part in self.parts)
        q, p, advantages = (
            np.concatenate(numbers) for numbers in zip(*(p.logprobs() for p in self.parts), strict=True)
        )
        # What an objective measures says more than its loss, which has no scale of its own.
        found = {**self._measured(), "train/loss": loss}
        found |= {f"train/{name}": value for name, value in kl_estimates(q, p).items()}
        if q.size:
            # The mean surprise of what was sampled, an unbiased estimate of the entropy per token at temperature 1.
            found["rollout/entropy"] = float(-q.mean())
        found |= self._reference_kl()
        clipped = clip_share(q, p, advantages, self.config.loss_fn, self.config.loss_fn_config)
        if clipped is not None:
            found["train/clip_share"] = clipped
        return found

    def _measured(self) -> dict[str, float]:
        """Return the means over the tokens of all parts of what the objective measured."""
        names = dict.fromkeys(name for part in self.parts for name in part.measured)
        told = {name: [part.measured[name] for part in self.parts if name in part.measured] for name in names}
        return {
            name: sum(total for total, _ in sums) / tokens
            for name, sums in told.items()
            if (tokens := sum(count for _, count in sums))
        }

    def _reference_kl(self) -> dict[str, float]:
        known = [(part.reference_kl, sum(e.trained_tokens for e in part.examples)) for part in self.parts]
        told = [(kl, tokens) for kl, tokens in known if kl is not None]
        tokens = sum(count for _, count in told)
        return {"train/kl_sampler_reference": sum(kl * count for kl, count in told) / tokens} if tokens else {}
