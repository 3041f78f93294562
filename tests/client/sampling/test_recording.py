"""`record_stability_info`: asked for by the sampling client, kept by its copies, said to be ours where it is used."""

from __future__ import annotations

import logging
import pickle

import httpx
import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.fakes.fake_service import FakeService
from tests.support.live_server import LLAMA, LiveServer
from tinsmith import (
    AdamParams,
    Datum,
    PromptProvenanceSpan,
    RequestFailedError,
    SampledProvenanceSpan,
    SampledSequence,
    SampleResponse,
    SamplingClient,
    SamplingParams,
    ServiceClient,
)
from tinsmith.client.sampling import handles
from tinsmith.client.training import batch_requests
from tinsmith.client.transport.connection import Connection
from tinsmith.types.facts.loss_table import LOSSES

pytestmark = pytest.mark.row(203)

PROMPT = [5, 6, 7]
PARAMS = SamplingParams(max_tokens=6, seed=3, stop=[])


def datum(sequence: SampledSequence) -> Datum:
    """A datum of one sampled sequence, without logprobs."""
    name, drawn, ahead = sequence.sequence_id or "", len(sequence.tokens), len(PROMPT) - 1
    inputs = {"target_tokens": [0] * ahead + sequence.tokens, "advantages": [0.0] * ahead + [1.0] * drawn}
    return Datum([*PROMPT, *sequence.tokens[:-1]], inputs).with_provenance(
        [
            PromptProvenanceSpan(sequence_id=name, length=len(PROMPT)),
            SampledProvenanceSpan(sequence_id=name, length=drawn - 1),
        ],
        [
            PromptProvenanceSpan(sequence_id=name, offset=1, length=ahead),
            SampledProvenanceSpan(sequence_id=name, length=drawn),
        ],
    )


def test_a_client_asks_for_it_with_every_sample_and_only_then(fake: FakeService, service: ServiceClient) -> None:
    training = service.create_lora_training_client("tinsmith-tiny")
    for recording in (
        service.create_sampling_client(base_model="tinsmith-tiny", record_stability_info=True),
        training.create_sampling_client("tinker://r/sampler_weights/x", record_stability_info=True),
        training.save_weights_and_get_sampling_client(record_stability_info=True),
    ):
        recording.sample(PROMPT, 2, PARAMS).result()
        assert fake.sampled[-1][2]["record_stability_info"] is True
        recording.compute_logprobs(PROMPT).result()
        assert "record_stability_info" not in fake.sampled[-1][2]
    service.create_sampling_client(base_model="tinsmith-tiny").sample(PROMPT, 2, PARAMS).result()
    assert "record_stability_info" not in fake.sampled[-1][2]


def test_copies_in_other_processes_ask_for_it_too(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(connection: Connection) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=fake)

    monkeypatch.setattr(Connection, "_open", client)
    monkeypatch.setattr(handles, "_joined", type(handles._joined)())
    service = ServiceClient(base_url="http://service", api_key="tml-secret")
    for asked in (True, False):
        made = service.create_sampling_client(base_model="tinsmith-tiny", record_stability_info=asked)
        handle = made.get_sampler_handle()
        for copy in (pickle.loads(pickle.dumps(made)), SamplingClient.from_sampler_handle(handle, api_key="tml-x")):
            copy.sample(PROMPT, 1, PARAMS).result()
            assert fake.sampled[-1][2].get("record_stability_info", False) is asked


@pytest.mark.parametrize(("losses", "said"), [(list(LOSSES), 1), ([], 0)])
def test_a_script_is_told_once_that_the_loss_is_the_service_s_own(
    losses: list[str], said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeService(losses=losses)

    async def client(connection: Connection) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=fake)

    monkeypatch.setattr(Connection, "_open", client)
    monkeypatch.setattr(batch_requests, "_told", set())
    training = ServiceClient(base_url="http://service", api_key="tml-x").create_lora_training_client("tinsmith-tiny")
    sequence = SampledSequence("stop", [1, 2], [-1.0, -1.0], sequence_id="x-0")
    with caplog.at_level(logging.WARNING, "tinsmith"):
        for _ in range(2):
            training.forward_backward([datum(sequence)], "stable_reinforce").result()
    assert len([m for m in caplog.messages if "is Tinsmith's own" in m]) == said


def _train(service: ServiceClient, base_model: str) -> tuple[SampleResponse, list[np.ndarray], float]:
    training = service.create_lora_training_client(base_model, rank=4, seed=1)
    sampler = training.save_weights_and_get_sampling_client(record_stability_info=True)
    response = sampler.sample(PROMPT, 3, PARAMS).result()
    output = training.forward_backward([datum(s) for s in response.sequences], "stable_reinforce", kl_coeff=0.5)
    training.optim_step(AdamParams(learning_rate=1e-3)).result()
    found = output.result()
    stranger = SampledSequence("stop", response.sequences[0].tokens, None, sequence_id="nobody-0")
    refused = training.forward_backward([datum(stranger)], "stable_reinforce")
    with pytest.raises(RequestFailedError, match="sequence_id: got 'nobody-0', expected a sequence of yours"):
        refused.result()
    return response, [out["logprobs"].to_numpy() for out in found.loss_fn_outputs], found.metrics["loss:sum"]


def test_recorded_samples_train_embedded_and_served_alike(live_server: LiveServer) -> None:
    with ServiceClient() as embedded:
        here = _train(embedded, str(checkpoint("llama")))
    with ServiceClient(base_url=live_server.url, api_key=live_server.key) as served:
        there = _train(served, LLAMA)
    for response, logprobs, loss in (here, there):
        # The weights are those that were sampled from, so every ratio is 1: the loss is -sum of lp, without a penalty.
        drawn = np.concatenate([lp[len(PROMPT) - 1 :] for lp in logprobs])
        recorded = np.concatenate([s.logprobs or [] for s in response.sequences])
        np.testing.assert_allclose(drawn, recorded, atol=1e-5)
        assert loss == pytest.approx(-recorded.sum(), rel=1e-4)
    assert [s.tokens for s in here[0].sequences] == [s.tokens for s in there[0].sequences]
    assert here[2] == pytest.approx(there[2], rel=1e-6)
