"""The formulas: advantages of sampled tokens, the sum over likely tokens, and soft targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinsmith.cookbook.distillation.reverse_kl import kl_advantages, soft_targets, top_k_reverse_kl

V, S = 9, 5


def logits(seed: int) -> torch.Tensor:
    return torch.randn(S, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def full_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student.softmax(-1) * (student.log_softmax(-1) - teacher.log_softmax(-1))).sum(-1)


@pytest.mark.row(100)
def test_a_token_s_advantage_is_minus_its_log_ratio_and_with_a_discount_that_of_later_ones() -> None:
    differences = np.array([0.0, 1.0, 2.0, 0.0, 4.0])
    action = [False, True, True, False, True]
    assert kl_advantages(differences, action, 0.0).tolist() == [0, -1, -2, 0, -4]
    assert kl_advantages(differences, action, 1.0).tolist() == [0, -7, -6, 0, -4]
    # What was read between two turns does not lengthen the way.
    assert kl_advantages(differences, action, 0.5).tolist() == [0, -3, -4, 0, -4]


@pytest.mark.row(100)
def test_the_sum_over_all_tokens_is_the_kl_with_its_gradient() -> None:
    student, teacher = logits(0).requires_grad_(True), logits(1)
    found = top_k_reverse_kl(student.log_softmax(-1), teacher.log_softmax(-1))
    expected = full_kl(student, teacher)
    assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), student, retain_graph=True)
    (exact,) = torch.autograd.grad(expected.sum(), student)
    assert gradient.numpy() == pytest.approx(exact.numpy(), abs=1e-5)


@pytest.mark.row(100)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_over_the_likeliest_it_counts_the_others_as_one_and_is_never_more(k: int) -> None:
    student, teacher = logits(0), logits(1).log_softmax(-1)
    likeliest = teacher.topk(k, -1).indices
    ours = student.log_softmax(-1).gather(-1, likeliest)
    found = top_k_reverse_kl(ours, teacher.gather(-1, likeliest))
    assert (found >= -1e-9).all()
    assert (found <= full_kl(student, logits(1)) + 1e-9).all()
    # The KL of the distributions over k tokens and one bucket.
    p = torch.cat([ours.exp(), 1 - ours.exp().sum(-1, keepdim=True)], -1)
    q = teacher.gather(-1, likeliest).exp()
    q = torch.cat([q, 1 - q.sum(-1, keepdim=True)], -1)
    assert found.numpy() == pytest.approx((p * (p / q).log()).sum(-1).numpy(), abs=1e-9)


def test_a_place_that_the_teacher_has_not_read_and_tokens_that_it_has_not_given_count_for_nothing() -> None:
    student = logits(0).log_softmax(-1)[:, :3].requires_grad_(True)
    teacher = logits(1).log_softmax(-1)[:, :3]
    fewer = teacher.clone()
    fewer[0] = -torch.inf
    fewer[1, 2] = -torch.inf
    found = top_k_reverse_kl(student, fewer)
    assert found[0] == 0
    assert found[1].item() == pytest.approx(top_k_reverse_kl(student[1:2, :2], teacher[1:2, :2]).item())
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()
    assert gradient[1, 2] == 0


@pytest.mark.row(100)
def test_soft_targets_add_up_to_one_at_every_place_that_the_teacher_has_read() -> None:
    weights, mass = soft_targets(np.log(np.array([[0.5, 0.25], [0.9, 1e-300]])))
    assert weights[0] == pytest.approx([2 / 3, 1 / 3])
    assert mass == pytest.approx([0.75, 0.9])
    weights, mass = soft_targets(np.full((1, 2), -np.inf))
    assert (weights.tolist(), mass.tolist()) == ([[0.0, 0.0]], [0.0])
