"""What a user of the official SDK sees of a bad request: the same message, at once, and a client that goes on."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tinker
from tinker import ModelInput

from tests.official.batches import supervised
from tests.support.live_server import LLAMA, LiveServer


@pytest.mark.row(36, 201)
def test_a_refused_call_is_raised_at_once_and_the_client_goes_on(live_server: LiveServer) -> None:
    with live_server.service() as service:
        model = service.create_lora_training_client(LLAMA, rank=4, seed=0).result(timeout=60)
        bad = supervised((5,))
        bad[0].loss_fn_inputs["target_tokens"] = tinker.TensorData.from_numpy(np.array([1, 2]))
        start = time.monotonic()
        # The bad datum is in the last of three chunks, of which the others are sound.
        with pytest.raises(tinker.RequestFailedError, match=r"target_tokens.*\[2\]") as caught:
            model.forward_backward(supervised((3,) * 2055) + bad, "cross_entropy").result(timeout=60)
        assert caught.value.category == tinker.types.RequestErrorCategory.User
        with pytest.raises(tinker.RequestFailedError, match="forward_backward"):
            model.optim_step(tinker.AdamParams()).result(timeout=60)
        with pytest.raises(tinker.RequestFailedError, match=r"loss_fn.*cross_entropie"):
            model.forward(supervised((5,)), "cross_entropie").result(timeout=60)  # pyright: ignore
        sampler = model.save_weights_and_get_sampling_client().result(timeout=60)
        with pytest.raises(tinker.RequestFailedError, match="top_p"):
            sampler.sample(ModelInput.from_ints([1]), 1, tinker.SamplingParams(top_p=2.0)).result(timeout=60)
        model.forward_backward(supervised((5,)), "cross_entropy")
        assert model.optim_step(tinker.AdamParams()).result(timeout=60).metrics
        assert time.monotonic() - start < 60


@pytest.mark.row(201, 213)
def test_a_wrong_key_is_an_authentication_error(live_server: LiveServer) -> None:
    with pytest.raises(tinker.AuthenticationError, match="X-API-Key"):
        tinker.RestClient(base_url=live_server.url, api_key="tml-not-a-key-of-yours")


@pytest.mark.row(36, 201)
def test_models_that_cannot_be_made_say_why(live_server: LiveServer) -> None:
    with live_server.service() as service:
        with pytest.raises(tinker.RequestFailedError, match=r"lora_config.rank.*1000.*1 to 256"):
            service.create_lora_training_client(LLAMA, rank=1000).result(timeout=60)
        with pytest.raises(tinker.RequestFailedError, match=r"base_model.*org/none"):
            service.create_lora_training_client("org/none").result(timeout=60)
        with pytest.raises(tinker.BadRequestError, match="org/none"):
            service.create_sampling_client(base_model="org/none").result(timeout=60)
        with pytest.raises(tinker.RequestFailedError, match="dimuon"):
            service.create_lora_training_client(LLAMA, optimizer=tinker.DimuonOptimizerConfig()).result(timeout=60)
        assert service.create_lora_training_client(LLAMA, rank=4).result(timeout=60).get_info().lora_rank == 4
