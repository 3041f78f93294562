"""Requests that an engine could not carry out are refused at the door, naming field, value and expectation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_adam, check_lora, check_sampling, check_training_data
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.loss_table import LOSSES, resolve_config
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams
from tinsmith.types.sample_inputs import SampleInputs
from tinsmith.types.tensor import TensorData

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


def with_mask(mask: list[float]) -> dict[str, Any]:
    return {**POLICY, "loss_fn_inputs": {**POLICY["loss_fn_inputs"], "sequence_ratio_mask": mask}}


def test_a_mask_without_a_position_is_sound_where_nothing_trains() -> None:
    datum = Datum([1, 2], {**with_mask([0.0, 0.0])["loss_fn_inputs"], "advantages": [0, 0]})
    check_training_data([datum], "gspo", None, INFO, max_datums=1)


@pytest.mark.parametrize("loss_fn", list(LOSSES))
def test_sound_data_pass(loss_fn: str) -> None:
    data = [Datum(**(GOOD if loss_fn == "cross_entropy" else POLICY))]
    if LOSSES[loss_fn].paired:
        data = [Datum(**GOOD), Datum(**{**GOOD, "targets": [2, 4]})]
    check_training_data(data, loss_fn, None, INFO, max_datums=2)


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("datum", "loss_fn", "config", "message"),
    [
        (GOOD, "nope", None, "loss_fn: got 'nope', expected one of cross_entropy"),
        (GOOD, "cross_entropy", {"beta": 1.0}, r"loss_fn_config\['beta'\]"),
        (POLICY, "ppo", {"clip_low_threshold": 2.0}, "at most clip_high_threshold"),
        (POLICY, "dro", {"beta": math.nan}, "finite number"),
        (POLICY, "stable_reinforce", {"clip_high_threshold": 0.9}, "got 0.9, expected at least 1"),
        (POLICY, "gspo", {"clip_high_threshold": 0.7}, "at most clip_high_threshold"),
        (with_mask([0.0, 0.0]), "gspo", None, r"\['sequence_ratio_mask'\]: got 'zeros only', expected a number other"),
        (with_mask([0.0]), "gspo", None, r"\['sequence_ratio_mask'\]\.shape: got \[1\], expected the length"),
        (with_mask([0.0, 1.0]), "ppo", None, r"\['sequence_ratio_mask'\]: got 'given', expected only"),
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


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_options_of_losses_that_no_engine_has_a_number_for(loss_fn: str) -> None:
    for key in LOSSES[loss_fn].config:
        with pytest.raises(UserError, match=rf"loss_fn_config\['{key}'\]: got 1e\+300, expected at most"):
            resolve_config(loss_fn, {key: 1e300})


def test_batches_that_are_empty_or_too_large_are_refused() -> None:
    with pytest.raises(UserError, match="at least one datum"):
        check_training_data([], "cross_entropy", None, INFO, max_datums=8)
    with pytest.raises(UserError, match="at most 1 in one request"):
        check_training_data([Datum(**GOOD)] * 2, "cross_entropy", None, INFO, max_datums=1)


@pytest.mark.row(6)
def test_ranks_and_seeds() -> None:
    check_lora(LoraConfig(rank=1), 256)
    check_lora(LoraConfig(rank=256), 256)
    assert LoraConfig().rank == 32
    for rank in (0, 257):
        with pytest.raises(UserError, match=f"lora_config.rank: got {rank}, expected 1 to 256"):
            check_lora(LoraConfig(rank=rank), 256)
    for seed in (-(2**63) - 1, 2**63):
        with pytest.raises(UserError, match=f"lora_config.seed: got {seed}, expected a 64-bit whole number"):
            check_lora(LoraConfig(seed=seed), 256)
    with pytest.raises(UserError, match="nothing to train"):
        check_lora(LoraConfig(train_attn=False, train_mlp=False, train_unembed=False), 256)


@pytest.mark.parametrize("field", ["learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, 1e300])
def test_adam_parameters_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=re.escape(f"adam_params.{field}: got {value}")):
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
        check_sampling(asked(params=SamplingParams(**params)), INFO, Settings(max_stop_sequences=8))


def asked(prompt: Sequence[int] = (1, 2), **fields: Any) -> SampleInputs:
    return SampleInputs(prompt=list(prompt), **{"num_samples": 1, "params": SamplingParams()} | fields)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="at most 3, to leave room"):
        check_sampling(asked([1] * 4), INFO, Settings())


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (["a", 1], "strings or token ids, not both"),
        ([1, "a"], "strings or token ids, not both"),
        ("", "not empty"),
        (["a", ""], "not empty"),
    ],
)
def test_stops_that_are_none(stop: str | list[int | str], message: str) -> None:
    with pytest.raises(UserError, match=rf"sampling_params\.stop: got .*{message}"):
        check_sampling(asked(params=SamplingParams(stop=stop)), INFO, Settings())


def test_stop_strings_need_a_tokenizer_and_stop_tokens_do_not() -> None:
    without = INFO.model_copy(update={"has_tokenizer": False})
    with pytest.raises(UserError, match=r"sampling_params\.stop: got \['a'\], expected token ids: .* no tokenizer"):
        check_sampling(asked(params=SamplingParams(stop="a")), without, Settings())
    check_sampling(asked(params=SamplingParams(stop=[5])), without, Settings())
    check_sampling(asked(params=SamplingParams(stop=[])), without, Settings())


@pytest.mark.parametrize(("length", "most"), [(1, 1), (2, 1), (3, 2)])
def test_the_last_n_are_those_of_a_prompt_that_can_have_logprobs(length: int, most: int) -> None:
    prompt = [1] * length
    check_sampling(asked(prompt, prompt_logprobs=True, prompt_logprobs_last_n=most), INFO, Settings())
    for last_n in (0, most + 1):
        with pytest.raises(UserError, match=f"prompt_logprobs_last_n: got {last_n}, expected 1 to {most}, the prompt"):
            check_sampling(asked(prompt, prompt_logprobs=True, prompt_logprobs_last_n=last_n), INFO, Settings())
    with pytest.raises(UserError, match="prompt_logprobs_last_n: got 1, expected to be absent"):
        check_sampling(asked(prompt, prompt_logprobs_last_n=1), INFO, Settings())


def test_a_sparse_tensor_of_any_size_is_refused_by_its_shape() -> None:
    huge = TensorData([1], "int64", [1, 2**40], [0, 1], [5])
    with pytest.raises(UserError, match=r"target_prompt_logprobs\.shape: got \[1, 1099511627776\]"):
        check_sampling(asked(target_prompt_logprobs=huge), INFO, Settings())
