"""Logprobs of targets and their gradient, against autograd on whole logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.examples import examples
from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.model.context import ContextCell
from tinsmith.engine.model.head.logprob_gradients import logprobs_and_gradient, target_logprobs
from tinsmith.engine.model.head.logprobs import Pairs
from tinsmith.engine.model.lora import LoraLinear

HIDDEN, VOCAB = 6, 11


def head_of(dtype: torch.dtype) -> LoraLinear:
    torch.manual_seed(1)
    return LoraLinear(nn.Linear(HIDDEN, VOCAB, bias=False).to(dtype).requires_grad_(False), "lm_head", ContextCell())


def gradient(head: LoraLinear, hidden: Tensor, pairs: Pairs, chunk: int, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logprobs, and the gradient of their sum times `factors`."""
    leaf = hidden.detach().requires_grad_()
    found = target_logprobs(head, leaf, (), pairs, chunk, PassGradients(torch.float64))
    (grad,) = torch.autograd.grad((found * factors).sum(), leaf)
    return found.detach(), grad


@examples(60)
@given(st.lists(st.sampled_from([0.0, 1.0, -2.5]), min_size=1, max_size=20), st.integers(1, 25), st.booleans())
def test_gradient_equals_autograd(factors: list[float], chunk: int, told: bool) -> None:
    # Told which rows train it has the gradient in the forward pass, else it projects again in the backward pass.
    head, n = head_of(torch.float64), len(factors)
    hidden = torch.randn(n, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    targets = torch.arange(n) * 7 % VOCAB
    wanted_factors = torch.tensor(factors, dtype=torch.float64)
    trained = wanted_factors.nonzero()[:, 0] if told else None
    found, grad = gradient(head, hidden, Pairs(torch.arange(n), targets, trained), chunk, wanted_factors)
    leaf = hidden.requires_grad_()
    wanted = (leaf @ head.weight.t()).log_softmax(-1)[torch.arange(n), targets]
    (wanted_grad,) = torch.autograd.grad((wanted * wanted_factors).sum(), leaf)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-12, atol=1e-12)


@examples(60)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, -2.5]), max_size=3), min_size=1, max_size=20), st.integers(1, 25))
def test_a_known_slope_gives_autograds_gradient_in_one_pass(slopes: list[list[float]], chunk: int) -> None:
    # Any number of targets per row; where it is one everywhere, rows of slope 0 are left out.
    head, n = head_of(torch.float64), len(slopes)
    hidden = torch.randn(n, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(n)).requires_grad_()
    factors = torch.tensor([slope for row in slopes for slope in row], dtype=torch.float64)
    rows = torch.tensor([i for i, row in enumerate(slopes) for _ in row], dtype=torch.int64)
    targets = torch.arange(len(rows)) * 7 % VOCAB
    trained = factors.nonzero()[:, 0] if all(len(row) == 1 for row in slopes) else None
    asked: list[int] = []

    def slope(first: int, logprobs: Tensor) -> Tensor:
        asked.append(logprobs.shape[0])
        return factors[first : first + logprobs.shape[0]]

    pairs = Pairs(rows, targets, trained)
    found, grad = logprobs_and_gradient(head, hidden, (), pairs, chunk, PassGradients(torch.float64), slope)
    wanted = (hidden @ head.weight.t()).log_softmax(-1)[rows, targets]
    (wanted_grad,) = torch.autograd.grad((wanted * factors).sum(), hidden)
    assert len(asked) == -(-n // chunk)
    assert sum(asked) == len(rows)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("told", [True, False])
def test_a_token_that_is_all_but_certain_keeps_its_gradient_in_bfloat16(told: bool) -> None:
    # softmax·W is within rounding of W[t] there: their difference must not be taken after rounding.
    head = head_of(torch.bfloat16)
    with torch.no_grad():
        head.weight[3] = 4.0
    hidden = torch.full((1, HIDDEN), 0.3, dtype=torch.bfloat16)
    pairs = Pairs(torch.tensor([0]), torch.tensor([3]), torch.tensor([0]) if told else None)
    found, grad = gradient(head, hidden, pairs, 8, torch.ones(1))
    leaf = hidden.double().requires_grad_()
    wanted = (leaf @ head.weight.double().t()).log_softmax(-1)[0, 3]
    wanted.backward()
    assert leaf.grad is not None
    assert wanted.item() > -0.05
    assert (grad.double() - leaf.grad).norm() < 0.01 * leaf.grad.norm()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-3)
