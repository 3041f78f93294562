"""Exchanges that are tried again, and those that are not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest

from tests.support.fakes.fake_service import FakeService
from tinsmith import APIConnectionError, APIStatusError, AuthenticationError, ServiceClient
from tinsmith.client.transport import retry
from tinsmith.types.errors import APIResponseValidationError, APITimeoutError, InternalServerError


def _response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_which_answers_are_tried_again() -> None:
    again = [status for status in range(200, 600) if retry.is_transient(_response(status))]
    assert again == [408, 409, 429, 500, 502, 503, 504]
    assert retry.is_transient(_response(400, x_should_retry="true"))
    assert not retry.is_transient(_response(503, x_should_retry="false"))


def test_delays() -> None:
    delays = [retry.backoff(attempt) for attempt in range(1, 9)]
    for attempt, delay in enumerate(delays):
        full = min(0.5 * 2**attempt, 8.0)
        assert 0.75 * full <= delay <= full
    assert retry.asked_delay(_response(429, retry_after="3")) == 3.0
    assert retry.asked_delay(_response(429, retry_after_ms="250")) == 0.25
    assert retry.asked_delay(_response(429, retry_after="3600")) is None
    assert retry.asked_delay(_response(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")) is None
    assert retry.asked_delay(_response(429, retry_after="soon")) is None
    assert retry.asked_delay(_response(429)) is None


@pytest.fixture
def faults(fake: FakeService) -> list[Callable[[httpx.Request], tuple[int, bytes, str]]]:
    """What the next capabilities requests meet."""
    queue: list[Callable[[httpx.Request], tuple[int, bytes, str]]] = []

    def meet(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if queue and request.url.path.endswith("get_server_capabilities"):
            return queue.pop(0)(request)
        return None

    fake.intercept = meet
    return queue


def _status(code: int) -> Callable[[httpx.Request], tuple[int, bytes, str]]:
    return lambda request: (code, b'{"detail": "told so"}', "application/json")


def _raise(kind: type[httpx.TransportError]) -> Callable[[httpx.Request], tuple[int, bytes, str]]:
    def fault(request: httpx.Request) -> tuple[int, bytes, str]:
        raise kind("broken", request=request)

    return fault


@pytest.mark.usefixtures("quick")
def test_faults_that_pass(service: ServiceClient, fake: FakeService, faults: list) -> None:
    kinds = (httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.WriteError)
    faults += [*(_raise(kind) for kind in kinds), *(_status(code) for code in (503, 500, 429, 408, 502))]
    assert service.list_models()[0].model_name == "tinsmith-tiny"
    assert len(fake.seen) == 11


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (404, APIStatusError), (501, APIStatusError)]
)
def test_refusals_are_final(service: ServiceClient, fake: FakeService, faults: list, status: int, error: type) -> None:
    faults.append(_status(status))
    with pytest.raises(error, match=rf"told so \(HTTP {status}\)"):
        service.list_models()
    assert len(fake.seen) == 1


@pytest.mark.usefixtures("quick")
def test_giving_up(
    service: ServiceClient, faults: list, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service._session.connection.settings, "client_retry_s", 0.05)
    monkeypatch.setattr(retry, "_QUIET_S", 0.0)
    faults += [_raise(httpx.ConnectError)] * 1000
    with caplog.at_level(logging.WARNING), pytest.raises(APIConnectionError, match="embedded service is not reachable"):
        service.list_models()
    assert "not reachable (ConnectError: broken), for 0 s now; trying for 300 s" in caplog.text
    faults.clear()
    assert service.list_models()
    assert "answers again" in caplog.text
    faults += [_status(503)] * 1000
    with pytest.raises(InternalServerError, match="503"):
        service.list_models()
    faults[:] = [_raise(httpx.ReadTimeout)] * 1000
    with pytest.raises(APITimeoutError):
        service.list_models()


def test_answers_that_are_not_the_protocol_s(service: ServiceClient, faults: list) -> None:
    faults.append(lambda request: (200, b"<html>", "text/html"))
    with pytest.raises(APIResponseValidationError, match="GetServerCapabilitiesResponse"):
        service.list_models()


@pytest.mark.usefixtures("quick")
def test_polls_outlive_faults(fake: FakeService, service: ServiceClient) -> None:
    training = service.create_lora_training_client("tinsmith-tiny").result()
    answers = iter(
        [
            _raise(httpx.ReadTimeout),
            _status(500),
            _status(429),
            lambda request: (
                200,
                b'{"type": "try_again", "request_id": "r", "queue_state": "active"}',
                "application/json",
            ),
            lambda request: (408, b"{}", "application/json"),
        ]
    )

    def meet(request: httpx.Request) -> tuple[int, bytes, str] | None:
        fault = next(answers, None) if request.url.path.endswith("retrieve_future") else None
        return fault(request) if fault is not None else None

    fake.intercept = meet
    training.optim_step().result()
    assert fake.models[training.model_id].steps == 1


@pytest.mark.parametrize("status", [200, 408])
def test_a_queue_that_stands_still_is_told(
    status: int, fake: FakeService, service: ServiceClient, caplog: pytest.LogCaptureFixture
) -> None:
    training = service.create_lora_training_client("tinsmith-tiny").result()
    body = b'{"type": "try_again", "request_id": "r", "queue_state": "paused_capacity", "queue_state_reason": "busy"}'
    answers = iter([(status, body, "application/json")] * 3)
    fake.intercept = lambda request: next(answers, None) if request.url.path.endswith("retrieve_future") else None
    training.optim_step().result()
    assert caplog.text.count("holds requests back: busy") == 1
