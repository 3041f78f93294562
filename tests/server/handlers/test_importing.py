"""The door of adapters made elsewhere: what comes in whole is loaded and saved, anything else leaves nothing behind."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from tests.server.client import Client, Failed
from tests.server.conftest import Running, Start
from tests.support.fakes.fake_link import FakeLink, FakeModel
from tinsmith.model_files.safetensors_header import TensorEntry, make_header
from tinsmith.server.handlers import importing
from tinsmith.server.handlers.intake import upload
from tinsmith.types.engine_messages.operations import LoadState, OpKind
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.params import LoraConfig
from tinsmith.types.requests import CreateSessionRequest

pytestmark = [pytest.mark.anyio, pytest.mark.row(217)]

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
REQUEST = {"base_model": "tiny", "name": "mine", "adapter_config": CONFIG}
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
ENTRIES = {f"{Q_PROJ}.lora_A.weight": TensorEntry("F32", (4, 8)), f"{Q_PROJ}.lora_B.weight": TensorEntry("F32", (8, 4))}
DATA = bytes(range(256))


class Link(FakeLink):
    """A host whose models can be loaded from a PEFT folder; remembers the folders."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[tuple[dict[str, Any], bytes, LoraConfig]] = []

    def _load(self, load: LoadState) -> FakeModel:
        folder = Path(load.folder)
        if not (folder / "adapter_config.json").is_file():
            return super()._load(load)
        config = json.loads((folder / "adapter_config.json").read_text())
        self.loaded.append((config, (folder / "adapter_model.safetensors").read_bytes(), load.lora))
        return FakeModel(weight=42.0)


def body(entries: dict[str, TensorEntry] | None = None, data: bytes = DATA, **fields: Any) -> bytes:
    line = json.dumps(REQUEST | fields).encode() + b"\n"
    return line + make_header(ENTRIES if entries is None else entries, {}) + data


async def send(client: Client, content: bytes, key: str = "k") -> httpx.Response:
    return await client.http.post("/api/v1/import_checkpoint", content=content, headers={"X-Idempotency-Key": key})


async def finish(client: Client, answer: httpx.Response) -> list[str]:
    """Wait for an import; return the paths of what it saved."""
    assert answer.status_code == 200, answer.text
    load, *saves = [{"request_id": request_id} for request_id in answer.json()["request_ids"]]
    assert (await client.result(load))["model_id"] == answer.json()["model_id"]
    return [(await client.result(save))["path"] for save in saves]


async def settle(running: Running) -> None:
    """Wait until the sessions of all imports have ended."""
    await running.service.sessions._drains.finish(5.0)


def leftovers(running: Running) -> list[str]:
    root = running.service.core.data_folder.root
    found = [path for kind in ("recovery", "checkpoints", "samplers") for path in (root / kind).rglob("*")]
    return [str(path) for path in found if path.is_file()]


def test_the_door_needs_no_torch() -> None:
    code = "import sys, tinsmith.server.service; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_an_import_that_is_refused_as_a_model_fails_its_futures_not_the_upload(start: Start) -> None:
    running = await start(Link(), max_models_per_key=1)
    client = await running.client("ann")
    await client.create_model()
    answer = await send(client, body())
    load, *saves = [{"request_id": request_id} for request_id in answer.json()["request_ids"]]
    with pytest.raises(Failed, match="expected at most 1 live training runs of a key"):
        await client.result(load)
    assert len(saves) == 2
    for save in saves:
        with pytest.raises(Failed, match="model_id"):
            await client.result(save)


async def test_an_upload_becomes_a_state_and_weights_for_sampling(start: Start) -> None:
    running = await start(Link())
    client = await running.client("ann")
    answer = await send(client, body(ttl_seconds=7200, user_metadata={"from": "afar"}))
    state, sampler = await finish(client, answer)
    run = answer.json()["model_id"]
    assert [state, sampler] == [f"tinker://{run}/weights/mine", f"tinker://{run}/sampler_weights/mine"]
    ((config, file, lora),) = running.link.loaded  # pyright: ignore[reportAttributeAccessIssue]
    assert config == CONFIG
    assert file == body()[body().index(b"\n") + 1 :]
    assert (lora.rank, lora.train_attn, lora.train_mlp, lora.train_unembed) == (4, True, False, False)
    listed = await client.get("checkpoints")
    assert {(c["tinker_path"], c["user_metadata"]["from"]) for c in listed["checkpoints"]} == {
        (state, "afar"),
        (sampler, "afar"),
    }
    assert all(c["expires_at"] for c in listed["checkpoints"])
    info = await client.post("weights_info", {"tinker_path": state})
    assert (info["base_model"], info["lora_rank"], info["train_mlp"]) == ("tiny", 4, False)
    loaded = await client.load(state, optimizer=False)
    assert running.link.models[loaded].weight == 42.0
    await settle(running)
    assert list(running.service.core.live.sessions) == [client.session_id], "an import's own session ends with it"
    assert not [path for path in leftovers(running) if run in path and "recovery" in path]


@pytest.mark.row(213)
async def test_what_was_imported_belongs_to_its_owner(start: Start) -> None:
    running = await start(Link())
    ann, bob = await running.client("ann"), await running.client("bob")
    (state, _) = await finish(ann, await send(ann, body()))
    assert (await bob.get("checkpoints"))["checkpoints"] == []
    with pytest.raises(Failed, match="expected a checkpoint of yours"):
        await bob.load(state, optimizer=False)
    path = CheckpointPath.parse(state)
    await bob.get(f"training_runs/{path.run_id}/checkpoints/{path.checkpoint_id}/files", status=404)
    request_id = (await send(ann, body(), "other")).json()["request_ids"][0]
    assert (await bob.poll(request_id)).status_code == 404
    nobody = await running.http().post("/api/v1/import_checkpoint", content=body())
    assert nobody.status_code == 401


async def test_a_repeated_request_is_the_first_one(start: Start) -> None:
    running = await start(Link())
    client = await running.client()
    first = await send(client, body())
    again = await send(client, body())
    assert again.json() == first.json()
    await finish(client, first)
    assert (await send(client, body())).json() == first.json(), "also when it is done"
    other = await send(client, body(), key="another")
    assert other.json()["model_id"] != first.json()["model_id"]
    await finish(client, other)
    assert len(running.link.loaded) == 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.row(210)
async def test_an_accepted_import_survives_a_killed_service(start: Start) -> None:
    link = Link()
    running = await start(link, owner="ann")
    link.holding = True
    client = Client(running.http())
    first = await send(client, body())
    await running.crash()
    after = await start(Link(), owner="ann")
    client = Client(after.http())
    assert (await send(client, body())).json() == first.json()
    (state, sampler) = await finish(client, first)
    await settle(after)
    assert len((await client.get("checkpoints"))["checkpoints"]) == 2
    assert not after.service.core.live.sessions
    for path in (state, sampler):
        parsed = CheckpointPath.parse(path)
        assert (after.service.core.data_folder.root / "checkpoints" / parsed.run_id / parsed.kind / "mine").is_dir()


@pytest.mark.row(210)
async def test_an_upload_that_a_killed_service_had_begun_leaves_nothing(start: Start) -> None:
    running = await start(Link(), owner="ann", journal=False)
    session_id = await running.service.sessions.create("ann", CreateSessionRequest())
    begun = running.service.core.data_folder.absolute(
        running.service.core.data_folder.new_recovery(f"{session_id}:train:0", "loaded")
    )
    begun.mkdir()
    (begun / "adapter_model.safetensors").write_bytes(body()[:200])
    await running.crash()
    after = await start(Link(), owner="ann", journal=False)
    assert leftovers(after) == []


async def test_an_adapter_that_the_engine_refuses_fails_all_three(start: Start) -> None:
    running = await start(FakeLink())  # which knows nothing of PEFT folders
    client = await running.client()
    answer = await send(client, body())
    load, *saves = answer.json()["request_ids"]
    with pytest.raises(Failed, match=r"adapter mine: .*expected a saved state"):
        await client.result({"request_id": load})
    for save in saves:
        with pytest.raises(Failed):
            await client.result({"request_id": save})
    await settle(running)
    assert (await client.get("checkpoints"))["checkpoints"] == []
    assert leftovers(running) == []


HEADER = make_header(ENTRIES, {})
LINE = json.dumps(REQUEST).encode() + b"\n"
LONG = "x" * 201


@pytest.mark.row(36, 211, 213)
@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "body: got '0 bytes without a line break', expected a line of JSON before the file"),
        (b"{" * 2**21, "body: got 'no line break in 1048576 bytes', expected a line of JSON before the file"),
        (b"[1]\n", "body: got 'list', expected a JSON object"),
        (b"\xff\n", "body: got no JSON"),
        (b'{"name": "x"}\n', "base_model: got nothing, expected a value"),
        (body(base_model="none"), "base_model: got 'none', expected one of tiny"),
        (body(name="../x"), "name: got '../x', expected 1 to 200 letters"),
        (body(name=LONG), f"name: got '{LONG[:195]}"),
        (body(ttl_seconds=5), "ttl_seconds: got 5, expected 3600 to"),
        (body(adapter_config=[]), "adapter_config: got [], expected a valid dictionary"),
        (body(adapter_config=CONFIG | {"use_dora": True}), "adapter_config.json: use_dora: got True, expected it to"),
        (body(adapter_config=CONFIG | {"r": 5}), f"adapter_model.safetensors: {Q_PROJ}.lora_A.weight: got (4, 8), exp"),
        (LINE + HEADER[:4], "adapter_model.safetensors: got '4 bytes', expected 8 bytes"),
        (LINE + struct.pack("<Q", 2**40), "adapter_model.safetensors: header: got '1099511627776 bytes', expected a"),
        (LINE + HEADER[:20], "adapter_model.safetensors: header: got '12 bytes', expected"),
        (LINE + struct.pack("<Q", 4) + b"[1]]", "adapter_model.safetensors: got a header that is no JSON"),
        (body(data=DATA[:-1]), "adapter_model.safetensors: got '255 bytes of data', expected 256 bytes"),
        (
            body(data=DATA + b"x"),
            "adapter_model.safetensors: got 'more than 256 bytes of data', expected 256",
        ),
        (body({}), "adapter_model.safetensors: got no lora_A and lora_B, expected those of one weight at least"),
        (
            body({name: TensorEntry("I64", entry.shape) for name, entry in ENTRIES.items()}),
            f"adapter_model.safetensors: {Q_PROJ}.lora_A.weight: dtype: got 'I64', expected one of F64, F32, F16, BF16",
        ),
        (
            body({n.replace("q_proj", "router"): e for n, e in ENTRIES.items()}),
            "adapter_model.safetensors: got a LoRA of model.layers.0.self_attn.router, expected only q, k, v, o",
        ),
        (
            body(
                {n: TensorEntry("F32", (300, 8) if "lora_A" in n else (8, 300)) for n in ENTRIES},
                adapter_config=CONFIG | {"r": 300},
            ),
            "adapter_config.json: r: got 300, expected at most 256, of an expert that over the experts per token",
        ),
    ],
)
async def test_what_is_refused_leaves_nothing(content: bytes, detail: str, start: Start) -> None:
    running = await start(Link())
    client = await running.client()
    answer = await send(client, content)
    assert answer.status_code in (400, 422), answer.text
    assert detail in answer.json()["detail"], answer.text
    assert leftovers(running) == []
    assert list(running.service.core.live.sessions) == [client.session_id]
    await finish(client, await send(client, body(), "next"))


@pytest.mark.row(211, 213)
async def test_limits_encodings_and_full_disks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = await start(Link(), max_import_mb=1)
    client = await running.client()

    async def refused(status: int, detail: str, content: Any, **headers: str) -> None:
        answer = await client.http.post("/api/v1/import_checkpoint", content=content, headers=headers)
        assert (answer.status_code, detail in answer.text) == (status, True), answer.text
        assert leftovers(running) == []

    big = {n: TensorEntry("F32", (4, 100_000) if "lora_A" in n else (100_000, 4)) for n in ENTRIES}
    size = sum(entry.size for entry in big.values())
    await refused(413, "body: got 'more than 1048576 bytes', expected at most 1048576 bytes", body(big, bytes(size)))
    await refused(415, "Content-Encoding: got 'gzip', expected identity", body(), **{"Content-Encoding": "gzip"})

    usage = importing.shutil.disk_usage(running.service.core.data_folder.root)
    with monkeypatch.context() as full:
        full.setattr(importing.shutil, "disk_usage", lambda _: usage._replace(free=100))
        await refused(507, "got '256 bytes', expected no more than the service has room for (100 bytes)", body())
    with monkeypatch.context() as full:
        full.setattr(upload, "_append", _no_space(running))
        await refused(507, "expected no more than the service has room for", body())
    with monkeypatch.context() as broken:
        broken.setattr(upload, "_append", _no_space(running, errno.EIO))
        await refused(503, "storage: could not be read or written", body())
    await finish(client, await send(client, body()))


def _no_space(running: Running, number: int = errno.ENOSPC) -> Callable[[Path, bytes], None]:
    def append(file: Path, piece: bytes) -> None:
        assert file.is_relative_to(running.service.core.data_folder.root / "recovery")
        file.write_bytes(piece[:10])
        raise OSError(number, "the disk")

    return append


@pytest.mark.row(211)
async def test_a_client_that_goes_away_leaves_nothing(start: Start) -> None:
    running = await start(Link())
    client = await running.client()

    async def half() -> AsyncIterator[bytes]:
        yield body()[:-100]
        raise ClientDisconnect

    answer = await client.http.post("/api/v1/import_checkpoint", content=half())
    assert "body: got a part of it, expected all of it" in answer.text
    assert leftovers(running) == []
    assert list(running.service.core.live.sessions) == [client.session_id]
    assert OpKind.LOAD_STATE not in [op.kind for op in running.link.submitted]


@pytest.mark.parametrize("dtype", [[], {}, None, 1, ["F32"]])
async def test_a_dtype_that_is_no_text_is_named(start: Start, dtype: Any) -> None:
    client = await (await start(Link())).client()
    header = json.dumps({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = json.dumps(REQUEST).encode() + b"\n" + struct.pack("<Q", len(header)) + header + bytes(4)
    answer = await send(client, content)
    assert answer.status_code == 400
    assert "w: dtype: got" in answer.json()["detail"]
