"""On-policy distillation: the student speaks, and its teacher says how likely it finds every token.

What is minimised is the reverse KL to the teacher at the states that the student comes to by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinsmith import Datum, ModelInput, TensorData, TrainingClient
from tinsmith.cookbook.distillation.config import DistillationConfig
from tinsmith.cookbook.distillation.reverse_kl import kl_advantages, top_k_reverse_kl
from tinsmith.cookbook.distillation.taught_examples import Taught, Totals, ask_likeliest, ask_logprobs, totals
from tinsmith.cookbook.distillation.teachers import Likeliest
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.cookbook.rl.learning.group_examples import GroupExamples
from tinsmith.cookbook.rl.trainer.submitted import ForwardedPart

if TYPE_CHECKING:
    import torch


class TeacherObjective:
    """Hands rollouts to the service with what their teachers say of them.

    With `top_k=0` the advantage of a token is minus its own log ratio to the teacher (`kl_advantages`), and the loss is
    `config.loss_fn`. With `top_k=k` it is the reverse KL over the teacher's k likeliest tokens and the rest as one
    (`top_k_reverse_kl`), summed over what was said, its gradient exact at each state: `forward_backward_custom`, which
    forwards twice.

    Args:
        config: says which.
    """

    def __init__(self, config: DistillationConfig) -> None:
        self._config = config

    def __str__(self) -> str:
        if self._config.top_k:
            return f"reverse KL over the teacher's {self._config.top_k} likeliest tokens"
        return f"reverse KL of sampled tokens, by {self._config.loss_fn}"

    def __call__(self, client: TrainingClient, part: Sequence[GroupExamples]) -> ForwardedPart:
        """Ask the teachers about all examples of a part, and submit it.

        Raises:
            TinsmithError: a teacher's service failed, or that of the student.
        """
        taught = [Taught.of(example, learned.group) for learned in part for _, example in learned.examples]
        return self._over_top_k(client, taught) if self._config.top_k else self._of_sampled(client, taught)

    def _of_sampled(self, client: TrainingClient, taught: list[Taught]) -> ForwardedPart:
        differences = [each.differences(own) for each, own in zip(taught, ask_logprobs(taught), strict=True)]
        for each, difference in zip(taught, differences, strict=True):
            advantages = kl_advantages(difference, each.example.action, self._config.kl_discount)
            each.example.advantages = advantages.tolist()
        examples = [each.example for each in taught]
        output = client.forward_backward(
            [example.datum(self._config.loss_fn) for example in examples],
            self._config.loss_fn,
            self._config.loss_fn_config,
        )
        return ForwardedPart(examples, output, measured=_kl(taught, differences))

    def _over_top_k(self, client: TrainingClient, taught: list[Taught]) -> ForwardedPart:
        likeliest = ask_likeliest(taught, self._config.top_k)
        differences = [
            each.differences([None if np.isnan(value) else float(value) for value in found.own])
            for each, found in zip(taught, likeliest, strict=True)
        ]
        places = [_top_k_datum(each, found) for each, found in zip(taught, likeliest, strict=True)]

        def loss(_: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
            import torch

            # Column 0 is the token that was said, which is looked at and not learned from.
            parts = [
                top_k_reverse_kl(lp[place.said, 1:], torch.from_numpy(place.teacher)).sum()
                for lp, place in zip(logprobs, places, strict=True)
            ]
            total = torch.stack(parts).sum()
            return total, {"top_k_kl:sum": float(total.detach())}

        output = client.forward_backward_custom([place.datum for place in places], loss)
        examples = [each.example for each in taught]
        return _TopKPart(examples, output, measured=_kl(taught, differences))


@dataclass
class _TopKPart(ForwardedPart):
    """Examples whose logprobs have a column for each likely token; the first is of the token that was said."""

    def logprobs(self) -> tuple[Any, Any, Any]:
        """Wait, and return q, p and advantage, which is 0, of every action token."""
        q: list[float] = []
        p: list[float] = []
        for example, output in zip(self.examples, self.output.result().loss_fn_outputs, strict=True):
            said = np.flatnonzero(example.action[1:])
            q += [example.logprobs[i + 1] for i in said]
            p += output["logprobs"].to_numpy()[said, 0].tolist()
        return np.asarray(q), np.asarray(p), np.zeros(len(q))


@dataclass(frozen=True)
class _Places:
    """Where the S tokens of a sequence that were said are learned.

    Attributes:
        datum: with targets [N - 1, 1 + K]: the next token, and the teacher's likeliest.
        said: [S] positions of it.
        teacher: [S, K] the teacher's logprobs there.
    """

    datum: Datum
    said: npt.NDArray[np.int64]
    teacher: npt.NDArray[np.float32]


def _top_k_datum(each: Taught, found: Likeliest) -> _Places:
    example: Example = each.example
    # Position i predicts token i + 1; row j of what the teacher said is about token first + j.
    said = np.flatnonzero(example.action[1:])
    rows = said + 1 - each.first
    targets = np.zeros((len(example.tokens) - 1, 1 + found.ids.shape[1]), np.int64)
    targets[:, 0] = example.tokens[1:]
    targets[said, 1:] = found.ids[rows]
    inputs = {"target_tokens": TensorData.from_numpy(targets)}
    datum = Datum(model_input=ModelInput.from_ints(example.tokens[:-1]), loss_fn_inputs=inputs)
    return _Places(datum, said, found.logprobs[rows].astype(np.float32))


def _kl(taught: Sequence[Taught], differences: Sequence[npt.NDArray[np.float64]]) -> Totals:
    return totals("train/teacher_kl", taught, [float(difference.sum()) for difference in differences])
