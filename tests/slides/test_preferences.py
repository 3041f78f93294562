"""The snippets of "Part 5: Preferences & RLHF", on the embedded service."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.slides import snippets
from tinsmith import AdamParams, TrainingClient
from tinsmith.cookbook.batches.datums import shift
from tinsmith.cookbook.preference.pair_examples import PairExamples
from tinsmith.cookbook.preference.reward_model import RewardModel
from tinsmith.cookbook.preference.reward_tokens import reward_tokens
from tinsmith.cookbook.preference.reward_trainer import bradley_terry, verdict_datum
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.tokenizer_utils import get_tokenizer


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


class Prompt(str):
    """As much of a text as the slide uses; a chat format has to know prompt and completion apart."""

    __slots__ = ()

    def __add__(self, completion: str) -> tuple[str, str]:
        return str(self), completion


@pytest.mark.row(93)
def test_training_preference_models() -> None:
    """A scalar for any prompt and completion; what is minimised is the loss that the slide takes of two of them."""
    torch = pytest.importorskip("torch")
    row = preference_row()
    with tinsmith.ServiceClient() as service:
        renderer = get_renderer("tinsmith_tiny", get_tokenizer("tinsmith-tiny"))
        tokens = reward_tokens(renderer.tokenizer)
        examples = PairExamples(renderer, verdict=tokens.good)(row)
        data = [verdict_datum(shift(example), tokens) for example in examples]
        training = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
        for _ in range(3):
            step = training.forward_backward_custom(data, lambda _, logprobs: bradley_terry(logprobs))
            training.optim_step(AdamParams(learning_rate=1e-2)).result()
        trained = training.forward_backward_custom(data, lambda _, logprobs: bradley_terry(logprobs)).result()
        reward_model = RewardModel(training.save_weights_and_get_sampling_client(), renderer)
        names: dict[str, Any] = {
            "model": lambda said: reward_model.score(*said),
            "prompt": Prompt(row["prompt"]),
            "completion_a": row["chosen"],
            "completion_b": row["rejected"],
            "sigmoid": lambda value: 1 / (1 + math.exp(-value)),
            "log": math.log,
        }
        snippets.run(snippets.PREFERENCE_MODEL, names)
    assert names["reward_a"] > names["reward_b"]
    assert trained.metrics["loss:sum"] < step.result().metrics["loss:sum"]
    assert names["loss"] == pytest.approx(trained.metrics["loss:sum"], abs=2e-3)
    loss, _ = bradley_terry([torch.tensor([[names[reward], 0.0]]) for reward in ("reward_a", "reward_b")])
    assert names["loss"] == pytest.approx(float(loss), rel=1e-5)
