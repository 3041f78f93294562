"""Sampling clients in other processes: same session, same weights, numbers that never meet."""

from __future__ import annotations

import base64
import json
import pickle

import httpx
import pytest

from tests.support.fakes.fake_service import FakeService
from tinsmith import SamplingClient, ServiceClient, TinsmithError, UserError
from tinsmith.client.sampling import handles
from tinsmith.client.transport import session
from tinsmith.client.transport.connection import Connection


@pytest.fixture
def served(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> SamplingClient:
    """A client of a service at a URL."""

    async def client(connection: Connection) -> httpx.AsyncClient:
        headers = {"X-API-Key": connection.settings.api_key or "", **connection.headers}
        return httpx.AsyncClient(transport=fake, headers=headers)

    monkeypatch.setattr(Connection, "_open", client)
    monkeypatch.setattr(handles, "_joined", type(handles._joined)())
    service = ServiceClient(base_url="http://service", api_key="tml-secret", default_headers_overrides={"X-A": "b"})
    return service.create_lora_training_client("tinsmith-tiny").save_weights_and_get_sampling_client()


def test_copies_sample_in_the_same_session(fake: FakeService, served: SamplingClient) -> None:
    params = {"max_tokens": 3}
    expected = served.sample([7], 2, params).result()
    sessions = len(fake.sessions)
    copies = [pickle.loads(pickle.dumps(served)), pickle.loads(pickle.dumps(served))]
    copies.append(SamplingClient.from_sampler_handle(served.get_sampler_handle(), api_key="tml-secret"))
    start = len(fake.seen)
    for copy in copies:
        for _ in range(2):
            tokens = [s.tokens for s in copy.sample([7], 2, params).result().sequences]
            assert tokens == [s.tokens for s in expected.sequences]
        assert copy.get_base_model() == "tinsmith-tiny"
    assert len(fake.sessions) == sessions
    assert {path for _, path, _ in fake.seen[start:]} == {"asample", "retrieve_future"}
    assert all((h["x-api-key"], h["x-a"]) == ("tml-secret", "b") for _, _, h in fake.seen)
    numbers = [seq for _, seq, _ in fake.sampled]
    assert len(set(numbers)) == len(numbers) == 7
    assert numbers[0] == 0
    assert all(seq >= 1_000_000_000 and seq % 1_000_000_000 in (0, 1) for seq in numbers[1:])
    assert copies[0]._session is copies[1]._session


def test_copies_keep_the_session_alive_and_do_not_end_it(
    fake: FakeService, served: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    served.result()
    monkeypatch.setattr(session, "_HEARTBEAT_S", 0.01)
    copy = pickle.loads(pickle.dumps(served))
    copy.sample([1], 1, {"max_tokens": 1}).result()
    deadline = time.monotonic() + 5
    while sum(path == "session_heartbeat" for _, path, _ in fake.seen) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    copy._session.finish("success")
    assert set(fake.sessions.values()) == {"active"}


def test_a_handle_holds_no_key(served: SamplingClient) -> None:
    state = json.loads(base64.urlsafe_b64decode(served.get_sampler_handle()))
    assert "tml-secret" not in json.dumps(state)
    assert state["base_url"] == "http://service"
    for wrong in ("", "nonsense", base64.urlsafe_b64encode(b"{}").decode()):
        with pytest.raises(UserError, match="handle: got"):
            SamplingClient.from_sampler_handle(wrong)


def test_the_embedded_service_stays_in_its_process(service: ServiceClient) -> None:
    client = service.create_sampling_client(base_model="tinsmith-tiny")
    with pytest.raises(TinsmithError, match="cannot leave its process"):
        pickle.dumps(client)
