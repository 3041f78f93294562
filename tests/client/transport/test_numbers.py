"""NaN and infinity, which JSON cannot say, are named by their field before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tinsmith
from tests.support.fakes.fake_service import BASE_MODEL
from tinsmith.types.environment import read_settings
from tinsmith.types.errors import UserError

BAD = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


@BAD
@pytest.mark.parametrize("field", ["learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"])
def test_of_the_optimizer(field: str, value: float, service: tinsmith.ServiceClient) -> None:
    training = service.create_lora_training_client(BASE_MODEL)
    with pytest.raises(UserError, match=rf"^adam_params\.{field}: got {value}, expected a finite number$"):
        training.optim_step(tinsmith.AdamParams(**{field: value})).result()


@BAD
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_of_sampling(field: str, value: float, service: tinsmith.ServiceClient) -> None:
    sampling = service.create_sampling_client(base_model=BASE_MODEL)
    params = tinsmith.SamplingParams(**{field: value})
    with pytest.raises(UserError, match=rf"^sampling_params\.{field}: got {value}, expected a finite number$"):
        sampling.sample(tinsmith.ModelInput.from_ints([1, 2]), 1, params).result()


@BAD
def test_of_anything_else_that_is_sent(value: Any, service: tinsmith.ServiceClient) -> None:
    sampling = service.create_sampling_client(base_model=BASE_MODEL)
    with pytest.raises(UserError, match=r"num_samples: got "):
        sampling.sample(tinsmith.ModelInput.from_ints([1]), value, tinsmith.SamplingParams()).result()
    rest = service.create_rest_client()
    with pytest.raises(ValueError, match="ttl_seconds"):
        rest.set_checkpoint_ttl_from_tinker_path("tinker://r/weights/x", value).result()


def test_a_setting_that_cannot_be_used_is_one_line_that_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_CLIENT_RETRY_S", "nan")
    for attempt in (read_settings, tinsmith.RestClient, tinsmith.ServiceClient):
        with pytest.raises(UserError, match=r"^TINSMITH_CLIENT_RETRY_S: got 'nan', expected greater than 0$"):
            attempt()
    monkeypatch.setenv("TINSMITH_CLIENT_RETRY_S", "1")
    monkeypatch.setenv("TINSMITH_PORT", "70000")
    with pytest.raises(UserError, match=r"^TINSMITH_PORT: got '70000', expected less than or equal to 65535$"):
        read_settings()
