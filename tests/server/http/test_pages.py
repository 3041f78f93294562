"""Health, numbers, configuration, tokenizers, model sources, logs."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from tests.server.conftest import Running, Start
from tests.support.checkpoints import checkpoint
from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.cluster.model_sources import resolve, resolve_models
from tinsmith.engine.engine import Engine
from tinsmith.logs import KeyValueFormatter
from tinsmith.models import path as shipped
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Stats
from tinsmith.types.errors import StartupError

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


async def test_health_is_true_only_when_every_named_model_is_loaded(start: Start) -> None:
    link = FakeLink([tiny_info("tiny"), tiny_info("second")])
    running = await start(link)
    for path in ("/healthz", "/api/v1/healthz"):
        assert (await running.http().get(path)).json() == {"status": "ok"}
    link.kill()
    assert (await running.http().get("/healthz")).status_code == 503
    link.infos = link.infos[:1]
    link.revive()
    answer = await running.http().get("/healthz")
    assert answer.status_code == 503
    assert "second" in answer.json()["detail"]


async def test_configuration_and_telemetry(running: Running) -> None:
    client = await running.client()
    config = await client.post("client/config", {"sdk_version": "0.38.0"})
    assert config["pjwt_auth_enabled"] is False
    assert "ppo" in config["losses"]
    dynamic = await client.post("client/dynamic_config", {"sdk_version": "0.38.0"})
    assert dynamic["sample_cancel_enabled"] is True
    assert await client.post("telemetry", {"events": [{"anything": 1}]}) == {"status": "accepted"}


async def test_metrics(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 1)
    running.link.send(Stats({"queue length": 3.0, "tokens/s": 12.5}))
    await client.get("nothing/there", 404)
    page = (await running.http().get("/metrics")).text
    assert 'tinsmith_operations_total{kind="forward_backward",outcome="done"} 1.0' in page
    assert 'tinsmith_http_requests_total{path="/api/v1/forward_backward",status="200"} 1.0' in page
    assert 'tinsmith_http_requests_total{path="unknown",status="404"} 1.0' in page
    assert "tinsmith_live_models 1.0" in page
    assert "tinsmith_engine_queue_length 3.0" in page
    assert "tinsmith_engine_tokens_s 12.5" in page
    assert "tinsmith_engine_up 1.0" in page
    assert 'tinsmith_operation_seconds_count{kind="forward_backward"} 1.0' in page


async def test_the_docs_name_every_metric(running: Running) -> None:
    """What the service and its engine show, and nothing that they do not."""
    client = await running.client()
    await client.create_model()
    engine = Engine.load("tiny", str(checkpoint("llama")), "cpu", "auto", Settings(kv_cache_mb=8, adapter_mb=64))
    assert engine.sampler is not None
    host = EngineHost({"tiny": engine}, lambda _: None, Settings())
    running.link.send(host._meter.take(host._engines.values(), 0, 0.0, busy=False))
    page = (await running.http().get("/metrics")).text
    shown = set(re.findall(r"^# HELP (\w+) ", page, re.MULTILINE)) - set(re.findall(r"\w+_created\b", page))
    table = (ROOT / "docs" / "service.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(tinsmith_\w+)", table)) == shown
    assert not engine.memory.figures()["host_adapters"]


async def test_a_tokenizer_and_its_tag(running: Running) -> None:
    client = await running.client()
    running.service.core.catalog.folders["tiny"] = shipped()
    answer = await client.http.get("/api/v1/tokenizer", params={"model": "tiny"})
    body = answer.json()
    assert json.loads(body["tokenizer_json"])["model"]
    assert body["chat_template"]
    assert body["eos_token_ids"]
    again = await client.http.get(
        "/api/v1/tokenizer", params={"model": "tiny"}, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'}
    )
    assert again.status_code == 304
    assert not again.content
    assert (await client.http.get("/api/v1/tokenizer", params={"model": "nobody"})).status_code == 404


async def test_a_checkpoint_without_a_tokenizer(running: Running, tmp_path: Path) -> None:
    client = await running.client()
    answer = await client.http.get("/api/v1/tokenizer", params={"model": "tiny"})
    assert answer.status_code == 404
    assert "tokenizer.json" in answer.json()["detail"]


async def test_an_unexpected_fault_shows_a_reference_and_no_more(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await running.client()

    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(running.service.listings, "sessions", broken)
    answer = await client.get("sessions", 500)
    reference = answer["detail"].split("reference ")[1][:8]
    assert "secret" not in answer["detail"]
    assert reference in caplog.text
    assert "a secret" in caplog.text


# -- sources -------------------------------------------------------------------------------------------------------


def _folder(path: Path, config: str = '{"model_type": "llama"}') -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(config)
    return path


def test_models_by_folder_name_and_shipped(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a=b" / "c")
    assert resolve_models([f"org/name={folder}", "tinsmith-tiny", "mine=tinsmith-tiny"]) == {
        "org/name": folder,
        "tinsmith-tiny": shipped().resolve(),
        "mine": shipped().resolve(),
    }
    plain = _folder(tmp_path / "plain")
    assert resolve_models([str(plain), f"{plain}/x={plain}"]) == {str(plain): plain, f"{plain}/x": plain}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at all", "which is no folder, expected a checkpoint's folder or a hub id"),
        ("some/repository", "the hub does not give it"),
    ],
)
def test_sources_that_are_no_model(source: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        resolve(source)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (
        tmp_path / "empty",
        _folder(tmp_path / "torn", "{"),
        _folder(tmp_path / "other", "[]"),
        _folder(tmp_path / "untyped", "{}"),
    ):
        with pytest.raises(StartupError, match=r"model mine: .*config\.json: "):
            resolve_models([f"mine={source}"])
    with pytest.raises(StartupError, match="twice"):
        resolve_models(["tinsmith-tiny", "tinsmith-tiny"])
    for text in ("=x", "mine="):
        with pytest.raises(StartupError, match="NAME=FOLDER"):
            resolve_models([text])


def test_log_lines() -> None:
    record = logging.LogRecord("tinsmith.x", logging.WARNING, "f", 1, 'said "%s"\n', ("hi",), None)
    line = KeyValueFormatter("api").format(record)
    assert line.endswith('level=warning process=api logger=tinsmith.x message="said \\"hi\\"\\n"')
    assert "\n" not in line
