"""Losses over pairs of rows, a chosen completion and a rejected one of the same prompt.

w is a position's weight: 0 at the prompt, which contributes exactly nothing, and 1 at the completion. lp is its
target's logprob under the current policy, ref under the reference. Each loss compares two rewards, implicit in the
policy:

    dpo      r = beta * sum of w * (lp - ref) over the row     (Rafailov et al. 2023, arXiv:2305.18290, equation 5,
                                                                without the term that a pair has in common)
    ipo      r = beta * the same sum / sum of w
    simpo    r = beta * sum of w * lp / sum of w               (Meng et al. 2024, arXiv:2405.14734, equation 4)

As all losses here they are functions of the positions of a pass whose values sum to the loss: a pair's loss stands at
the first position of its chosen row. Rows come in turn, chosen and rejected, and a pair is never split between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.training.losses import Config, LossInputs


class _Rewards(NamedTuple):
    """Of each pair, [B]: the rewards of both rows, and the mean logprob of the chosen completion's tokens."""

    chosen: Tensor
    rejected: Tensor
    chosen_mean: Tensor

    @property
    def margin(self) -> Tensor:
        return self.chosen - self.rejected


def dpo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-(1 - s) * log sigmoid(m) - s * log sigmoid(-m) + nll_coeff * nll, with m the margin r_chosen - r_rejected.

    - Direct preference optimization: Rafailov et al. 2023 (arXiv:2305.18290, equation 7).
    - s = `label_smoothing`, the share of pairs whose labels are taken to be swapped: conservative DPO (Mitchell 2023,
      "A note on DPO with noisy preferences and relationship to IPO").
    - nll = -(sum of w * lp) / (sum of w) of the chosen completion, so that its likelihood does not sink with that of
      the rejected one (Pang et al. 2024, arXiv:2404.19733, equation 1, where the factor stands at the other term).
    """
    rewards = _rewards("dpo", logprobs, inputs, config)
    smoothing, nll_coeff = _number(config, "label_smoothing"), _number(config, "nll_coeff")
    loss = -(1 - smoothing) * F.logsigmoid(rewards.margin) - smoothing * F.logsigmoid(-rewards.margin)
    return _at_chosen(loss - nll_coeff * rewards.chosen_mean, inputs)


def ipo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """(h - 1 / (2 * beta))^2, with h = (r_chosen - r_rejected) / beta the difference of the mean log ratios.

    Azar et al. 2023 (arXiv:2310.12036, equation 17), where beta is called tau and the log ratios are those of whole
    completions. Means over tokens are what its authors computed, as TRL reports of them (`DPOTrainer`, loss type
    `ipo`), and what keeps h comparable between lengths.
    """
    beta = _number(config, "ipo_beta")
    margin = _rewards("ipo", logprobs, inputs, config).margin
    return _at_chosen((margin / beta - 1 / (2 * beta)).square(), inputs)


def simpo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - gamma) (Meng et al. 2024, arXiv:2405.14734, equation 6)."""
    margin = _rewards("simpo", logprobs, inputs, config).margin
    return _at_chosen(-F.logsigmoid(margin - _number(config, "simpo_gamma")), inputs)


def pair_metrics(loss_fn: str, logprobs: Tensor, inputs: LossInputs, config: Config) -> dict[str, Tensor]:
    """Return what is told of each pair beside its loss, [B] each.

    `accuracy` is 1 where the chosen row has the larger reward, else 0.
    """
    rewards = _rewards(loss_fn, logprobs, inputs, config)
    return {
        "accuracy": (rewards.margin > 0).to(logprobs.dtype),
        "margin": rewards.margin,
        "chosen_reward": rewards.chosen,
        "rejected_reward": rewards.rejected,
    }


def _rewards(loss_fn: str, logprobs: Tensor, inputs: LossInputs, config: Config) -> _Rewards:
    lengths = _row_lengths(inputs)
    lp = _row_sums(logprobs, inputs, lengths)
    weight = torch.segment_reduce(inputs.weights, "sum", lengths=lengths, unsafe=True)
    beta = _number(config, f"{loss_fn}_beta")
    if loss_fn == "simpo":
        rewards = beta * lp / weight
    else:
        ratios = _row_sums(logprobs - inputs.reference, inputs, lengths)
        rewards = beta * (ratios / weight if loss_fn == "ipo" else ratios)
    return _Rewards(rewards[0::2], rewards[1::2], (lp / weight)[0::2])


def _row_lengths(inputs: LossInputs) -> Tensor:
    """Return the number of positions of each row, int64 [2 B]."""
    # Not by a row's number: rows of other losses may lie between those of this one.
    return torch.unique_consecutive(inputs.rows, return_counts=True)[1]


def _row_sums(values: Tensor, inputs: LossInputs, lengths: Tensor) -> Tensor:
    """Return the weighted sum of each row, [2 B]."""
    # Replaced where the weight is 0, not only multiplied: 0 * inf would be NaN in value and gradient. By segments, for
    # the reason that `losses._row_means` gives.
    weighted = torch.where(inputs.weights != 0, values, 0.0) * inputs.weights
    return torch.segment_reduce(weighted, "sum", lengths=lengths, unsafe=True)


def _at_chosen(loss: Tensor, inputs: LossInputs) -> Tensor:
    """Put the loss of each pair, [B], at the first position of its chosen row: [P]."""
    lengths = _row_lengths(inputs)
    starts = (lengths.cumsum(0) - lengths)[0::2]
    return torch.zeros_like(inputs.weights).index_copy(0, starts, loss)


def _number(config: Config, key: str) -> float:
    value = config[key]
    assert value is not None
    return value


PAIRED_LOSS_FUNCTIONS: dict[str, Callable[[Tensor, LossInputs, Config], Tensor]] = {
    "dpo": dpo,
    "ipo": ipo,
    "simpo": simpo,
}
