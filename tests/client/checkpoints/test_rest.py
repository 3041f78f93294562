"""The management client: what it sends, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from pathlib import Path

import httpx
import pytest

from tests.support.fakes.fake_service import FakeService, reply
from tinsmith import RestClient, ServiceClient, TinsmithError, UserError

PATH = "tinker://s:train:0/weights/a.b"
ROUTE = "training_runs/s:train:0/checkpoints/weights/a.b"
CHECKPOINT = {"checkpoint_id": "weights/a.b", "checkpoint_type": "training", "time": "2026-01-01T00:00:00Z"} | {
    "tinker_path": PATH
}
RUN = {"training_run_id": "s:train:0", "base_model": "m", "model_owner": "me", "is_lora": True} | {
    "last_request_time": "2026-01-01T00:00:00Z"
}
CURSOR = {"offset": 0, "limit": 20, "total_count": 1}

CALLS = [
    ("get_training_run", ("s:train:0",), "GET", "training_runs/s:train:0", None, RUN),
    ("get_training_run_by_tinker_path", (PATH,), "GET", "training_runs/s:train:0", None, RUN),
    ("list_training_runs", (5, 2), "GET", "training_runs", None, {"training_runs": [RUN], "cursor": CURSOR}),
    (
        "list_checkpoints",
        ("s:train:0",),
        "GET",
        "training_runs/s:train:0/checkpoints",
        None,
        {"checkpoints": [CHECKPOINT]},
    ),
    ("list_user_checkpoints", (), "GET", "checkpoints", None, {"checkpoints": [CHECKPOINT], "cursor": CURSOR}),
    ("get_weights_info_by_tinker_path", (PATH,), "POST", "weights_info", {"tinker_path": PATH}, {"base_model": "m"}),
    ("delete_checkpoint", ("s:train:0", "weights/a.b"), "DELETE", ROUTE, None, None),
    ("delete_checkpoint_from_tinker_path", (PATH,), "DELETE", ROUTE, None, None),
    ("publish_checkpoint_from_tinker_path", (PATH,), "POST", f"{ROUTE}/publish", None, None),
    ("unpublish_checkpoint_from_tinker_path", (PATH,), "DELETE", f"{ROUTE}/publish", None, None),
    ("set_checkpoint_ttl_from_tinker_path", (PATH, None), "PUT", f"{ROUTE}/ttl", {"ttl_seconds": None}, None),
    ("list_sessions", (), "GET", "sessions", None, {"sessions": ["s"]}),
    ("get_session", ("s",), "GET", "sessions/s", None, {"training_run_ids": ["s:train:0"], "sampler_ids": []}),
    ("get_sampler", ("s:sample:0",), "GET", "samplers/s:sample:0", None, {"sampler_id": "x", "base_model": "m"}),
]


@pytest.mark.parametrize(("method", "arguments", "verb", "path", "body", "answer"), CALLS)
def test_calls(
    fake: FakeService,
    service: ServiceClient,
    method: str,
    arguments: tuple,
    verb: str,
    path: str,
    body: object,
    answer: object,
) -> None:
    sent: list[httpx.Request] = []

    def note(request: httpx.Request) -> tuple[int, bytes, str]:
        sent.append(request)
        return (204, b"", "") if answer is None else reply(answer)

    fake.intercept = note
    client = service.create_rest_client()
    plain = getattr(client, method)(*arguments).result()
    twin = asyncio.run(getattr(client, f"{method}_async")(*arguments))
    assert plain == twin
    assert (plain is None) == (answer is None)
    for request in sent:
        assert request.method == verb
        assert request.url.path == f"/api/v1/{path}"
        assert (json.loads(request.content) if request.content else None) == body
    assert len(sent) == 2
    assert fake.sessions == {}


def test_every_method_has_its_twin() -> None:
    names = {name for name, _ in inspect.getmembers(RestClient, inspect.isfunction) if not name.startswith("_")}
    plain = {name for name in names if not name.endswith("_async")}
    assert {f"{name}_async" for name in plain} == names - plain


def test_what_belongs_to_the_hosted_service(service: ServiceClient) -> None:
    client = service.create_rest_client()
    with pytest.raises(TinsmithError, match="get_billing_usage: not offered by this service"):
        client.get_billing_usage("2026-01-01", "2026-01-02")
    with pytest.raises(TinsmithError, match="whoami: not offered"):
        client.whoami_async()
    with pytest.raises(AttributeError, match="no attribute 'get_trainings'"):
        client.get_trainings  # noqa: B018
    with pytest.raises(UserError, match="tinker_path: got 'nonsense'"):
        client.delete_checkpoint_from_tinker_path("nonsense")


def _serve_files(fake: FakeService, files: dict[str, bytes], damaged: str = "") -> None:
    def serve(request: httpx.Request) -> tuple[int, bytes, str] | None:
        name = request.url.path.rpartition("/")[2]
        if name == "files":
            listed = [
                {"name": n, "size_bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in files.items()
            ]
            return reply({"files": listed})
        return 200, files[name][: -1 if name == damaged else None], "application/octet-stream"

    fake.intercept = serve


FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"\x01" * 3_000_000, "optimizer.safetensors": b"o"}


def test_download(fake: FakeService, service: ServiceClient, tmp_path: Path) -> None:
    _serve_files(fake, FILES)
    client = service.create_rest_client()
    folder = client.download_checkpoint(PATH, tmp_path / "new" / "adapter").result()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: FILES[name] for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    with pytest.raises(UserError, match="expected an empty folder"):
        client.download_checkpoint(PATH, folder).result()


@pytest.mark.parametrize(
    ("files", "damaged", "message"),
    [(FILES, "adapter_model.safetensors", "arrived with checksum"), ({"x": b""}, "", "holds no adapter_config.json")],
)
def test_a_download_is_whole_or_nothing(
    fake: FakeService, service: ServiceClient, tmp_path: Path, files: dict[str, bytes], damaged: str, message: str
) -> None:
    _serve_files(fake, files, damaged)
    with pytest.raises(TinsmithError, match=message):
        service.create_rest_client().download_checkpoint(PATH, tmp_path / "adapter").result()
    assert list(tmp_path.iterdir()) == []
