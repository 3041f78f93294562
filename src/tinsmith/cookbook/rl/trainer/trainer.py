"""The trainer: a step takes the groups of its batch, learns from them in substeps, and hands on the new weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tinsmith import SamplingClient, TrainingClient
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.rl.environment import RLDataset
from tinsmith.cookbook.rl.learning.advantages import ADVANTAGES, AdvantageFunction
from tinsmith.cookbook.rl.learning.group_examples import GroupExamples, examples_in, group_examples
from tinsmith.cookbook.rl.learning.kl_penalty import KLPenalty
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.rollout_batches import RolloutBatches, RolloutPlan
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.cookbook.rl.trainer.config import RLConfig
from tinsmith.cookbook.rl.trainer.submitted import ForwardedPart, SubmittedRLStep
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup
from tinsmith.cookbook.training import LearningRates, ModelSetup

Part = list[GroupExamples]
# Hands a part of a batch that has examples to the service; takes the place of `config.loss_fn` on advantages.
Objective = Callable[[TrainingClient, Part], ForwardedPart]


class RLTrainer:
    """Learns from rollouts.

    Args:
        config: sizes, loss, and how far sampling may run ahead.
        model: samples and renders.
        dataset: the groups.
        rates: of the optimizer; it knows the number of steps.
        thread: whose loop the rollouts live on.

    Attributes:
        advantages: gives those of the episodes of a group; `config.advantages`, unless somebody sets another.
        objective: what is minimised; None is `config.loss_fn` on the advantages, unless somebody sets another.
    """

    def __init__(
        self, config: RLConfig, model: ModelSetup, dataset: RLDataset, rates: LearningRates, thread: RolloutThread
    ) -> None:
        self.advantages: AdvantageFunction = ADVANTAGES[config.advantages]
        self.objective: Objective | None = None
        self._config = config
        self._model = model
        self._rates = rates
        self._thread = thread
        settings = RolloutSettings(model.renderer, config.limits(), config.errors())
        self._plan = RolloutPlan(dataset, settings, config.seed, rates.total, config.max_steps_off_policy)
        self._batches: RolloutBatches | None = None
        _warn_of_policies(config)

    def start(self, client: TrainingClient) -> None:
        """Take the client; the rollouts begin with the first step."""
        self._client = client
        self._context_length = client.get_info().model_data.context_length
        self._penalty = self._kl_penalty()

    def submit(self, step: int) -> SubmittedRLStep:
        """Wait for the groups of batch `step`, and submit what is learned from them and the next weights to sample."""
        began = time.perf_counter()
        batches = self._rollouts(step)
        batches.may_be_stopped = True
        waited_before = batches.waited_seconds
        submitted = SubmittedRLStep(step, self._config, self._rates.at(step), self._model.tokenizer)
        submitted.of_rewards = self.objective is None
        too_far = False
        for substep in self._substeps(batches, step):
            forwarded = False
            for part in substep:
                submitted.groups += part
                # After a substep that went too far, the rest of the batch is counted and not learned from.
                if not too_far:
                    forwarded |= self._forward(submitted, part)
            if forwarded:
                batches.may_be_stopped = False
                submitted.optim_steps.append(self._client.optim_step(self._rates.adam_params(step)))
                if self._config.on_high_kl == "resample":
                    too_far |= submitted.kl_now() > self._config.high_kl
        self._step = step + 1
        if step + 1 < self._rates.total:
            # Where it went too far, the next batch is sampled from these weights or later ones, and none before.
            ahead = 0 if too_far else self._config.max_steps_off_policy
            batches.publish(self._snapshot(), step + 1, ahead)
        waited = batches.waited_seconds - waited_before
        submitted.facts |= {
            "rollout/resampled": float(too_far),
            "rollout/samplers_renewed": batches.renewed,
            "time/rollouts": waited,
            "time/loop_blocked": self._thread.blocked_seconds,
            "time/submit": time.perf_counter() - began - waited,
        }
        return submitted

    def _rollouts(self, step: int) -> RolloutBatches:
        if self._batches is None:
            self._step = step
            self._batches = RolloutBatches(self._plan, self._thread, self._policy(), self._policy)
        return self._batches

    def _policy(self) -> Policy:
        """Return the policy of the weights as they are now."""
        return Policy(self._snapshot(), self._config.temperature, self._context_length, self._step)

    def _snapshot(self) -> SamplingClient:
        # That loss names what was sampled, and the service has to have kept it.
        recorded = self._config.loss_fn == "stable_reinforce"
        return self._client.save_weights_and_get_sampling_client(record_stability_info=recorded)

    def _substeps(self, batches: RolloutBatches, step: int) -> Iterator[Iterable[Part]]:
        """Yield the parts of each substep; parts that stream are waited for as they are asked for."""
        streamed = self._config.stream_minibatches
        groups: Iterator[TrajectoryGroup] = batches.as_finished(step) if streamed else iter(batches.in_order(step))
        sizes = _even_sizes(batches.size(step), self._config.num_substeps * max(1, streamed))
        for first in range(0, len(sizes), max(1, streamed)):
            own = sizes[first : first + max(1, streamed)]
            yield ([self._learned(group) for group in islice(groups, size)] for size in own)

    def _learned(self, group: TrajectoryGroup) -> GroupExamples:
        config = self._config
        return group_examples(
            group, self.advantages, config.turn_discount, remove_constant=config.remove_constant_reward_groups
        )

    def _forward(self, submitted: SubmittedRLStep, part: Part) -> bool:
        """Submit the forward-backward of a part of the batch; return whether there was anything to learn in it."""
        examples = list(examples_in(part))
        if not examples:
            return False
        if self.objective is not None:
            submitted.parts.append(self.objective(self._client, part))
            return True
        reference_kl = None
        if self._penalty is not None:
            reference_kl = self._thread.submit(self._penalty.apply(examples)).result()
        output = self._client.forward_backward(
            [example.datum(self._config.loss_fn) for example in examples],
            self._config.loss_fn,
            self._config.loss_fn_config,
        )
        submitted.parts.append(ForwardedPart(examples, output, reference_kl))
        return True

    def _kl_penalty(self) -> KLPenalty | None:
        if not self._config.kl_penalty_coef:
            return None
        path = self._config.kl_reference
        base = None if path else self._config.model_name
        reference = self._model.service.create_sampling_client(model_path=path, base_model=base)
        return KLPenalty(reference, self._config.kl_penalty_coef, self._context_length)


def _even_sizes(count: int, parts: int) -> list[int]:
    """Return the sizes of at most `parts` parts of `count` things, none of them empty."""
    parts = max(1, min(parts, count))
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)]


def _warn_of_policies(config: RLConfig) -> None:
    """Warn where what is sampled is not what the loss takes it for."""
    off_policy = config.max_steps_off_policy > 0 or config.num_substeps > 1
    if config.loss_fn == "cross_entropy" and off_policy:
        warn_once(
            "off-policy cross_entropy",
            f"loss_fn: cross_entropy knows nothing of who sampled, and with max_steps_off_policy="
            f"{config.max_steps_off_policy} and num_substeps={config.num_substeps} that is not the policy that learns; "
            "importance_sampling, ppo and cispo correct for it",
        )
    if config.temperature != 1.0:
        warn_once(
            "temperature",
            f"temperature: at {config.temperature:g} the sampled logprobs are those of another distribution than the "
            "one that is trained, and the ratio of the two is not 1 even on-policy; 1.0 has no such gap",
        )
