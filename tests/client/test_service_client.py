"""Where a client goes, what it tells the service, and how a session begins and ends."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import LoraConfig, RestClient, ServiceClient, TinsmithError, TrainingClient, UserError
from tinsmith.client.transport import session as session_module


def _connection(client: ServiceClient | RestClient) -> object:
    return client._session.connection if isinstance(client, ServiceClient) else client._connection


@pytest.mark.row(20, 21, 29)
@pytest.mark.parametrize("prefix", ["TINSMITH", "TINKER"])
def test_environment(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv(f"{prefix}_BASE_URL", "http://service:8000/prefix/")
    monkeypatch.setenv(f"{prefix}_API_KEY", "tml-secret")
    for client in (ServiceClient(), ServiceClient(base_url=None), RestClient()):
        connection = _connection(client)
        assert connection.address.base_url == "http://service:8000/prefix"
        assert connection.settings.api_key == "tml-secret"
    given = ServiceClient(base_url="https://other", api_key="tml-other")
    assert _connection(given).address.base_url == "https://other"
    assert _connection(given).settings.api_key == "tml-other"


@pytest.mark.row(20, 21)
def test_our_names_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://theirs")
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://ours")
    assert _connection(ServiceClient()).address.base_url == "http://ours"


def test_a_url_without_scheme_is_refused() -> None:
    with pytest.raises(UserError, match=r"base_url: got 'localhost:8000', expected http://"):
        ServiceClient(base_url="localhost:8000")


@pytest.mark.row(21, 24)
@pytest.mark.parametrize("missing", ["torch", "fastapi"])
def test_without_the_service_s_packages(missing: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else real(name, package)
import tinsmith
try:
    tinsmith.ServiceClient()
except tinsmith.TinsmithError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set TINSMITH_BASE_URL, or install it: pip install" in done.stdout
    assert missing in done.stdout


@pytest.mark.row(27, 30)
def test_first_use(fake: FakeService, embed: Callable[[FakeService], None]) -> None:
    """Nothing is sent before something is asked for."""
    embed(fake)
    service = ServiceClient(user_metadata={"who": "me"}, display_name="mine", default_headers_overrides={"X-A": "b"})
    assert fake.seen == []
    training = service.create_lora_training_client("tinsmith-tiny", rank=8, seed=3, train_unembed=False)
    training.result()
    paths = [path for _, path, _ in fake.seen]
    assert paths[:5] == ["client/config", "create_session", "create_model", "retrieve_future", "get_info"]
    assert all(headers["x-a"] == "b" for _, _, headers in fake.seen)
    assert training.model_id == "s-0:train:0"
    assert training.get_info().model_data.model_name == "tinsmith-tiny"
    assert service.create_lora_training_client("tinsmith-tiny").model_id == "s-0:train:1"
    service.close()
    assert fake.sessions == {"s-0": "success"}
    with pytest.raises(TinsmithError, match="closed"):
        service.create_lora_training_client("tinsmith-tiny")
    with pytest.raises(TinsmithError, match="closed"):
        training.optim_step()
    service.close()


@pytest.mark.row(6, 25, 26)
def test_shorthand_client(fake: FakeService, embed: Callable[[FakeService], None]) -> None:
    embed(fake)
    bodies = []

    def note(request: httpx.Request) -> None:
        if request.url.path.endswith("create_model"):
            bodies.append(json.loads(request.content))

    fake.intercept = note
    clients = [
        TrainingClient(model_name="tinsmith-tiny", lora_config={"rank": 16}),
        TrainingClient(model_name="tinsmith-tiny"),
        TrainingClient(lora_config=LoraConfig(rank=4, seed=1)),
    ]
    assert [client.get_info().lora_rank for client in clients] == [16, 32, 4]
    assert [body["lora_config"].get("seed") for body in bodies] == [None, None, 1]
    assert len(fake.sessions) == 3
    for client in clients:
        client.close()
    assert set(fake.sessions.values()) == {"success"}
    with pytest.raises(UserError, match=r"lora_config\.rnk: unknown, did you mean 'rank'"):
        TrainingClient(lora_config={"rnk": 3})
    with pytest.raises(UserError, match=r"lora_config\.rank: got 'big'"):
        TrainingClient(lora_config={"rank": "big"})


def test_creation_options(service: ServiceClient) -> None:
    with pytest.raises(UserError, match="all False"):
        service.create_lora_training_client("m", train_mlp=False, train_attn=False, train_unembed=False)
    with pytest.raises(UserError, match="optimizer: got 'dimuon'"):
        service.create_lora_training_client("m", optimizer=type("D", (), {"type": "dimuon"})())
    with pytest.raises(TinsmithError, match="belongs to a ServiceClient"):
        service.create_lora_training_client("tinsmith-tiny").close()


@pytest.mark.row(13, 27)
def test_list_models(service: ServiceClient, fake: FakeService) -> None:
    model = service.list_models()[0]
    assert (model.model_name, model.max_context_length, model.kind) == ("tinsmith-tiny", 1024, "instruct")
    assert service.get_server_capabilities().losses == ["cross_entropy"]
    assert fake.sessions == {}


@pytest.mark.parametrize(
    ("error", "status"), [(None, "success"), (ValueError("x"), "errored"), (KeyboardInterrupt(), "interrupted")]
)
def test_context_manager(
    fake: FakeService, embed: Callable[[FakeService], None], error: BaseException | None, status: str
) -> None:
    embed(fake)

    def script() -> None:
        with ServiceClient() as service:
            service.create_lora_training_client("tinsmith-tiny").result()
            if error is not None:
                raise error

    if error is None:
        script()
    else:
        with pytest.raises(type(error)):
            script()
    assert fake.sessions == {"s-0": status}


def test_the_end_waits_for_what_was_submitted(fake: FakeService, embed: Callable[[FakeService], None]) -> None:
    embed(fake)
    with ServiceClient() as service:
        training = service.create_lora_training_client("tinsmith-tiny")
        training.forward_backward(batch(3), "cross_entropy")
        training.optim_step()
        training.save_state("end")
    kinds = [kind for _, kind, _ in fake.models["s-0:train:0"].log]
    assert kinds == ["forward_backward", "optim_step", "save_weights"]
    finish = [path for _, path, _ in fake.seen].index("sessions/s-0/finish")
    assert finish == len(fake.seen) - 1


def test_the_end_of_the_process_too() -> None:
    """A script that saves and returns leaves a saved state and a finished session."""
    code = """
import tinsmith
from tests.support.fakes.fake_service import FakeService
from tinsmith.client.transport import embedding, loop
fake = FakeService()
async def start(settings):
    return fake
embedding.register(start)
training = tinsmith.TrainingClient("tinsmith-tiny")
training.optim_step()
print(training.save_state("end"))
loop.at_shutdown(lambda: print([kind for _, kind, _ in fake.models["s-0:train:0"].log], fake.sessions))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "tinker://s-0:train:0/weights/end",
        "['optim_step', 'save_weights'] {'s-0': 'success'}",
    ]
    assert done.stderr == ""


def test_a_session_that_nobody_holds_ends(fake: FakeService, embed: Callable[[FakeService], None]) -> None:
    embed(fake)
    TrainingClient("tinsmith-tiny").result()
    deadline = time.monotonic() + 10
    while fake.sessions["s-0"] == "active":
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert fake.sessions["s-0"] == "success"


def test_heartbeats_until_the_service_ends_the_session(
    fake: FakeService, embed: Callable[[FakeService], None], monkeypatch: pytest.MonkeyPatch, caplog: object
) -> None:
    monkeypatch.setattr(session_module, "_HEARTBEAT_S", 0.02)
    embed(fake)
    beats: list[float] = []

    def beat(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if not request.url.path.endswith("session_heartbeat"):
            return None
        beats.append(time.monotonic())
        if len(beats) == 2:
            raise httpx.ConnectError("away", request=request)
        return (410, b'{"detail": "expired"}', "application/json") if len(beats) == 4 else None

    fake.intercept = beat
    service = ServiceClient()
    service.create_lora_training_client("tinsmith-tiny").result()
    deadline = time.monotonic() + 10
    while len(beats) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(beats) == 4
    assert "was ended by the embedded service" in caplog.text  # type: ignore[attr-defined]
    service.close("interrupted")


@pytest.mark.row(21)
def test_an_empty_url_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_BASE_URL", "")
    assert _connection(ServiceClient()).address.base_url is None
