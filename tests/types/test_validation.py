"""Requests that an engine could not carry out are refused at the door, naming field, value and expectation."""

from __future__ import annotations

import math

import pytest

from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.loss_table import LOSSES
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams
from tinsmith.types.validation import check_adam, check_lora, check_sampling, check_training_data

INFO = BaseModelInfo(
    name="m",
    architecture="LlamaForCausalLM",
    model_type="llama",
    vocab_size=10,
    hidden_size=8,
    num_layers=1,
    context_length=4,
)
GOOD = {"tokens": [1, 2], "targets": [2, 3], "weights": [0.0, 1.0]}
POLICY = {"tokens": [1, 2], "loss_fn_inputs": {"target_tokens": [2, 3], "logprobs": [-1.0, -1.0], "advantages": [1, 1]}}


@pytest.mark.parametrize("loss_fn", list(LOSSES))
def test_sound_data_pass(loss_fn: str) -> None:
    datum = Datum(**(GOOD if loss_fn == "cross_entropy" else POLICY))
    check_training_data([datum], loss_fn, None, INFO, max_datums=1)


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("datum", "loss_fn", "config", "message"),
    [
        (GOOD, "nope", None, "loss_fn: got 'nope', expected one of cross_entropy"),
        (GOOD, "cross_entropy", {"beta": 1.0}, r"loss_fn_config\['beta'\]"),
        (POLICY, "ppo", {"clip_low_threshold": 2.0}, "at most clip_high_threshold"),
        (POLICY, "dro", {"beta": math.nan}, "finite number"),
        ({**GOOD, "targets": [2]}, "cross_entropy", None, r"data\[0\]\.loss_fn_inputs\['target_tokens'\]\.shape"),
        ({**GOOD, "weights": [0.0, math.nan]}, "cross_entropy", None, r"\['weights'\]\[1\]: got nan"),
        (
            {**GOOD, "tokens": [1, 10]},
            "cross_entropy",
            None,
            r"model_input\[1\]: got 10, expected a token id from 0 to 9",
        ),
        ({**GOOD, "targets": [2, -1]}, "cross_entropy", None, r"\['target_tokens'\]\[1\]: got -1"),
        ({"tokens": [], "targets": []}, "cross_entropy", None, "0 tokens"),
        ({"tokens": [1] * 5, "targets": [1] * 5}, "cross_entropy", None, "at most the context length 4"),
        (GOOD, "ppo", None, r"\['logprobs'\]: got None"),
        (POLICY, "cross_entropy", None, r"loss_fn_inputs\['logprobs'\]: got 'given', expected only"),
    ],
)
def test_bad_data_are_refused(datum: dict, loss_fn: str, config: dict | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_training_data([Datum(**datum)], loss_fn, config, INFO, max_datums=8)


def test_batches_that_are_empty_or_too_large_are_refused() -> None:
    with pytest.raises(UserError, match="at least one datum"):
        check_training_data([], "cross_entropy", None, INFO, max_datums=8)
    with pytest.raises(UserError, match="at most 1 in one request"):
        check_training_data([Datum(**GOOD)] * 2, "cross_entropy", None, INFO, max_datums=1)


@pytest.mark.row(6)
def test_ranks() -> None:
    check_lora(LoraConfig(rank=1), 256)
    check_lora(LoraConfig(rank=256), 256)
    assert LoraConfig().rank == 32
    for rank in (0, 257):
        with pytest.raises(UserError, match=f"lora_config.rank: got {rank}, expected 1 to 256"):
            check_lora(LoraConfig(rank=rank), 256)
    with pytest.raises(UserError, match="nothing to train"):
        check_lora(LoraConfig(train_attn=False, train_mlp=False, train_unembed=False), 256)


@pytest.mark.parametrize("field", ["learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_adam_parameters_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"adam_params.{field}: got {value}"):
        check_adam(AdamParams(**{field: value}))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_p": 1.7}, r"sampling_params.top_p: got 1.7, expected 0 < top_p <= 1"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [10]}, "a token id from 0 to 9"),
        ({"stop": ["", "a"]}, "not empty"),
        ({"stop": ["a"] * 9}, "at most 8"),
    ],
)
def test_sampling_parameters_out_of_range(params: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_sampling(SamplingParams(**params), 2, INFO, max_stops=8)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="at most 3, to leave room"):
        check_sampling(SamplingParams(), 4, INFO, max_stops=8)
