"""Numbers about policies, against plain arithmetic, and the penalty for leaving a reference."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tinsmith import TensorData
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.cookbook.rl.learning.kl_penalty import KLPenalty
from tinsmith.cookbook.rl.learning.policy_metrics import action_logprobs, clip_share, kl_estimates


def example(said: list[float], advantage: float = 1.0, prompt: int = 2) -> Example:
    made = Example()
    made.read(range(prompt))
    made.say(range(len(said)), said, advantage)
    return made


def test_only_action_tokens_are_compared_each_with_its_own_prediction() -> None:
    first, second = example([-1.0, -2.0], 0.5), example([-3.0], -0.5, prompt=3)
    # Position i predicts token i + 1: the first of two prompt tokens predicts the second, which nobody said.
    outputs = [
        {"logprobs": TensorData.from_numpy(np.array([-9.0, -1.1, -2.2], np.float32))},
        {"logprobs": TensorData.from_numpy(np.array([-9.0, -9.0, -3.3], np.float32))},
    ]
    q, p, advantages = action_logprobs([first, second], outputs)
    assert q == pytest.approx([-1, -2, -3])
    assert p == pytest.approx([-1.1, -2.2, -3.3], rel=1e-6)
    assert advantages == pytest.approx([0.5, 0.5, -0.5])
    found = kl_estimates(q, p)
    assert found["kl_sampler_learner"] == pytest.approx((0.1 + 0.2 + 0.3) / 3, rel=1e-5)
    assert found["kl_sampler_learner_k2"] == pytest.approx((0.01 + 0.04 + 0.09) / 6, rel=1e-5)
    assert kl_estimates(np.zeros(0), np.zeros(0)) == {}


def test_both_estimates_meet_the_true_divergence() -> None:
    rng = np.random.default_rng(0)
    true_q = rng.dirichlet(np.ones(12))
    true_p = true_q * np.exp(rng.normal(0, 0.1, 12))
    true_p /= true_p.sum()
    drawn = rng.choice(12, 200_000, p=true_q)
    found = kl_estimates(np.log(true_q[drawn]), np.log(true_p[drawn]))
    divergence = float((true_q * np.log(true_q / true_p)).sum())
    assert found["kl_sampler_learner"] == pytest.approx(divergence, rel=0.1)
    assert found["kl_sampler_learner_k2"] == pytest.approx(divergence, rel=0.1)


@pytest.mark.row(79)
@pytest.mark.parametrize(
    ("loss_fn", "config", "expected"),
    [
        # Ratios 2, 2, 1/2, 1/2, 1 with advantages +, -, +, -, +.
        ("ppo", None, 2 / 5),
        ("ppo", {"clip_low_threshold": 0.4, "clip_high_threshold": 3.0}, 0.0),
        ("cispo", {"clip_high_threshold": 1.5}, 2 / 5),
        ("importance_sampling", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}, 4 / 5),
        ("importance_sampling", None, None),
        ("dro", None, None),
        ("cross_entropy", None, None),
    ],
)
def test_what_is_clipped_is_what_the_loss_clips(loss_fn: str, config: Any, expected: float | None) -> None:
    difference = np.log([2.0, 2.0, 0.5, 0.5, 1.0])
    q = np.full(5, -1.0)
    found = clip_share(q, q + difference, np.array([1.0, -1.0, 1.0, -1.0, 1.0]), loss_fn, config)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_ratio_that_overflows_is_clipped() -> None:
    assert clip_share(np.array([-800.0]), np.array([-1.0]), np.array([1.0]), "ppo", None) == 1.0


class Reference:
    """Gives every token the same logprob."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def compute_logprobs(self, tokens: list[int]) -> list[float | None]:
        self.asked.append(len(tokens))
        return [None, *[-1.5] * (len(tokens) - 1)]


@pytest.mark.row(94)
def test_the_penalty_moves_tokens_by_how_far_they_are_from_the_reference() -> None:
    near, far = example([-1.5, -1.5], 1.0), example([-0.5], -1.0)
    penalty = KLPenalty(Reference(), 0.1, None)  # pyright: ignore[reportArgumentType]
    assert asyncio.run(penalty.apply([near, far])) == pytest.approx(1 / 3)
    assert near.advantages == pytest.approx([0, 0, 1 + 0.1 / 3, 1 + 0.1 / 3])
    assert far.advantages == pytest.approx([0, 0, -1 + 0.1 * (1 / 3 - 1)])
    assert asyncio.run(penalty.apply([])) is None


def test_a_sequence_that_fills_the_context_is_asked_for_without_its_last_token() -> None:
    reference = Reference()
    full = example([-0.5, -0.5], 0.0)
    penalty = KLPenalty(reference, 1.0, 4)  # pyright: ignore[reportArgumentType]
    assert asyncio.run(penalty.apply([full])) == pytest.approx(0.5)
    assert reference.asked == [3]
    assert full.advantages == pytest.approx([0, 0, -0.5, 0.5])
