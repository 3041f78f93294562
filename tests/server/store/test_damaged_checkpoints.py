"""Files of checkpoints come back as they were saved, or the fetch, the load or the sampler fails and names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Running
from tests.server.store.test_damage import DAMAGES
from tinsmith.adapter_files.manifest import read_arrival, read_file, seal_arrival
from tinsmith.types.errors import Damaged

pytestmark = [pytest.mark.anyio, pytest.mark.row(211)]


async def saved(running: Running, kind: str) -> tuple[Client, str, Path]:
    """A checkpoint: its client, its path and its folder."""
    client = await running.client()
    model = await client.create_model()
    path = await (client.save_state if kind == "weights" else client.save_sampler)(model, "good")
    return client, path, running.service.core.data_folder.root / "checkpoints" / model / kind / "good"


async def fetch(client: Client, path: str, file: str = "") -> httpx.Response:
    run, kind, name = path.removeprefix("tinker://").split("/")
    return await client.http.get(f"/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/files{file}")


@pytest.mark.parametrize("file", ["weights.json", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_never_fetched(running: Running, damage: str, file: str) -> None:
    client, path, folder = await saved(running, "weights")
    assert (await fetch(client, path, f"/{file}")).content == (folder / file).read_bytes()
    DAMAGES[damage](folder / file)
    answer = await fetch(client, path, f"/{file}")
    assert answer.status_code == 500
    assert file in answer.json()["detail"]
    assert answer.headers["x-should-retry"] == "false"
    # What is sound is still to be had, unless nothing says what it was.
    if file != "state.json":
        assert (await fetch(client, path, "/state.json")).status_code == 200


@pytest.mark.parametrize("damage", ["emptied", "truncated", "longer", "missing"])
async def test_the_listing_names_what_is_not_whole(running: Running, damage: str) -> None:
    client, path, folder = await saved(running, "weights")
    DAMAGES[damage](folder / "weights.json")
    answer = await fetch(client, path)
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith("checkpoint good: weights.json is ")


@pytest.mark.parametrize("file", ["weights.json", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_checkpoint_is_not_loaded(running: Running, damage: str, file: str) -> None:
    client, path, folder = await saved(running, "weights")
    DAMAGES[damage](folder / file)
    with pytest.raises(Failed, match=file.replace(".", r"\.")) as failed:
        await client.load(path)
    assert failed.value.category == "server"


@pytest.mark.parametrize("damage", ["flipped", "missing"])
async def test_a_damaged_checkpoint_is_not_sampled_from(running: Running, damage: str) -> None:
    client, path, folder = await saved(running, "sampler_weights")
    DAMAGES[damage](folder / "weights.json")
    sampler = await client.sampler(model_path=path)
    with pytest.raises(Failed, match=r"weights\.json") as failed:
        await client.sample(sampler)
    assert failed.value.category == "server"


async def test_a_checkpoint_whose_folder_is_gone_is_named_and_not_retried(running: Running) -> None:
    client, path, folder = await saved(running, "weights")
    sampled, other, _ = await saved(running, "sampler_weights")
    shutil.rmtree(folder)
    shutil.rmtree(running.service.core.data_folder.root / "checkpoints" / other.split("/")[2])
    with pytest.raises(Failed, match="checkpoint good: its folder is gone") as failed:
        await client.load(path)
    assert failed.value.category == "server"
    answer = await fetch(client, path)
    assert (answer.status_code, answer.json()["detail"]) == (500, "checkpoint good: its folder is gone")
    body = {"session_id": sampled.session_id, "sampling_session_seq_id": 5, "model_path": other}
    assert (await sampled.post("create_sampling_session", body, 500))["detail"].endswith("its folder is gone")


def test_an_adapter_made_elsewhere_is_compared_with_what_arrived(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    seal_arrival(tmp_path)
    assert read_file(tmp_path, "adapter_model.safetensors", read_arrival(tmp_path)) == b"weights"
    (tmp_path / "adapter_model.safetensors").write_bytes(b"Weights")
    with pytest.raises(Damaged, match=r"got adapter_model\.safetensors with SHA-256 .*: damaged"):
        read_file(tmp_path, "adapter_model.safetensors", read_arrival(tmp_path))
    (tmp_path / "arrived.json").write_text((tmp_path / "arrived.json").read_text().replace("size", "Size", 1))
    with pytest.raises(Damaged, match=r"arrived\.json"):
        read_arrival(tmp_path)
