"""The snippets of "Part 5: Preferences & RLHF", on the embedded service."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest

from tests.slides import snippets
from tinsmith import AdamParams, TrainingClient


def preference_row() -> dict[str, str]:
    return ast.literal_eval(snippets.PREFERENCE_FORMAT.strip())


@pytest.mark.row(90, 92, 95)
def test_direct_preference_optimization(training: TrainingClient) -> None:
    """The call as it stands, on rows as they stand: what was chosen becomes likelier than what was rejected."""
    names: dict[str, Any] = {"preference_pairs": [preference_row()] * 4, "training": training}
    tree = ast.parse(snippets.DPO_LOSS)
    call = ast.unparse(tree.body[0])
    first = eval(call, names).result()
    # Before the first step the policy is its reference.
    assert first.metrics["loss:sum"] == pytest.approx(4 * math.log(2), rel=1e-5)
    assert first.metrics["margin:mean"] == pytest.approx(0.0, abs=1e-5)
    for _ in range(10):
        training.optim_step(AdamParams(learning_rate=1e-2)).result()
        last = eval(call, names).result()
    assert last.metrics["loss:sum"] < first.metrics["loss:sum"]
    assert last.metrics["accuracy:mean"] == 1.0
    assert last.metrics["margin:mean"] > 0
    assert last.metrics["chosen_reward:mean"] > last.metrics["rejected_reward:mean"]


@pytest.mark.row(91)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_typical_betas_scale_what_is_measured(beta: float, training: TrainingClient) -> None:
    rows = [preference_row()]
    training.forward_backward(data=rows, loss_fn="dpo", dpo_beta=beta).result()
    training.optim_step(AdamParams(learning_rate=1e-3)).result()
    told = training.forward(data=rows, loss_fn="dpo", dpo_beta=beta).result()
    chosen, rejected = (
        float(np.sum((output["logprobs"].to_numpy() - output["ref_logprobs"].to_numpy())[-size:]))
        for output, size in zip(told.loss_fn_outputs, _completion_sizes(training, rows[0]), strict=True)
    )
    assert told.metrics["margin:mean"] == pytest.approx(beta * (chosen - rejected), rel=1e-3, abs=1e-6)


def _completion_sizes(training: TrainingClient, row: dict[str, str]) -> list[int]:
    tokenizer = training.get_tokenizer()
    end = tokenizer.eos_token_id is not None
    return [len(tokenizer.encode(row[key], add_special_tokens=False)) + end for key in ("chosen", "rejected")]
