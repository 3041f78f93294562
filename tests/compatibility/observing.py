"""What is to be seen of a data folder of before: noted once with the code of before, compared with that of today."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from safetensors.numpy import load_file

from tests.compatibility.datums import supervised
from tests.compatibility.serving import ADAM, MODEL, PROTOBUF, Raw, pass_body
from tests.support.live_server import KEY

TIMEOUT = 60
OFFICIAL_ADAM = tinker.AdamParams(**ADAM)
# Longer answers are known by their hash: they were settled before, so every byte must be the same.
_LONGEST_KEPT = 20_000
_PROJECTIONS = 3


def operations(data_dir: Path) -> list[dict[str, Any]]:
    """Return the operations of a journal that no server has open, in the order of their arrival."""
    database = sqlite3.connect(data_dir / "tinsmith.db")
    rows = database.execute("select request_id, kind, state, model_id, seq_id from operations order by ordinal")
    names = ("request_id", "kind", "state", "model_id", "seq_id")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    database.close()
    return found


def outcome(raw: Raw, request_id: str) -> dict[str, Any]:
    """Return what a client that polls for an operation gets, once there is something to get."""
    answer = raw.outcome(request_id)
    kind = answer.headers["content-type"]
    if kind != PROTOBUF:
        return {"type": kind, "text": answer.text}
    if len(answer.content) > _LONGEST_KEPT:
        return {"type": kind, "sha256": hashlib.sha256(answer.content).hexdigest()}
    return {"type": kind, "base64": base64.b64encode(answer.content).decode()}


def save_and_sketch(raw: Raw, data_dir: Path, model: str, name: str) -> dict[str, list[float]]:
    """Save a model's state and return a sketch of it: weights and moments."""
    place = next_place(data_dir, model)
    found = raw.done("save_weights", place | {"path": name}).json()
    assert "path" in found, found
    return sketch(checkpoint_folder(data_dir, found["path"]))


def sketch(folder: Path) -> dict[str, list[float]]:
    """Return a few numbers of each tensor of a saved state, in which a change of any element shows.

    The first is the norm; the others are its products with random vectors of length 1, and are to be compared
    relative to the norm.
    """
    found: dict[str, list[float]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, values in sorted(load_file(file).items()):
            flat = values.astype(np.float64).ravel()
            vectors = np.random.default_rng(flat.size).normal(size=(_PROJECTIONS, flat.size))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            numbers = [float(np.linalg.norm(flat)), *(vectors @ flat).tolist()]
            found[f"{file.stem}: {name}"] = [float(f"{number:.8g}") for number in numbers]
    return found


def checkpoint_folder(data_dir: Path, path: str) -> Path:
    """Return where a checkpoint lies, as the database has it."""
    database = sqlite3.connect(f"file:{data_dir / 'tinsmith.db'}?mode=ro", uri=True)
    query = "select folder from checkpoints where run_id = ? and kind = ? and name = ?"
    ((folder,),) = database.execute(query, path.removeprefix("tinker://").split("/")).fetchall()
    database.close()
    return data_dir / folder


def next_place(data_dir: Path, model: str) -> dict[str, Any]:
    """Return a model with the place after its last operation."""
    database = sqlite3.connect(f"file:{data_dir / 'tinsmith.db'}?mode=ro", uri=True)
    ((last,),) = database.execute("select max(seq_id) from operations where model_id = ?", (model,)).fetchall()
    database.close()
    return {"model_id": model, "seq_id": last + 1}


def train_on(raw: Raw, data_dir: Path, model: str) -> list[dict[str, Any]]:
    """Do a pass and a step on a model that was there before; return the outcomes."""
    first = raw.submit("forward_backward", pass_body(**next_place(data_dir, model), seed=20))
    second = raw.submit("optim_step", next_place(data_dir, model) | {"adam_params": ADAM})
    return [outcome(raw, request_id) for request_id in (first, second)]


def listed_checkpoints(url: str) -> list[str]:
    """Return the paths of all checkpoints, as the official SDK lists them."""
    rest = tinker.RestClient(base_url=url, api_key=KEY)
    return sorted(one.tinker_path for one in rest.list_user_checkpoints(limit=100).result(TIMEOUT).checkpoints)


def use_checkpoints(url: str, paths: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Resume or sample checkpoints with the official SDK, each as its kind asks for."""
    service = tinker.ServiceClient(base_url=url, api_key=KEY)
    for path in paths:
        states = "/weights/" in path
        yield path, (_resumed if states else _sampled)(service, path)
    service.close("success").result(TIMEOUT)


def _resumed(service: tinker.ServiceClient, path: str) -> dict[str, Any]:
    """Return losses of a state: as loaded, and after a step that begins with its moments and with none."""
    found: dict[str, Any] = {}
    imported = path.endswith("/imported")
    loads = {"with": service.create_training_client_from_state_with_optimizer} if not imported else {}
    for how, load in (loads | {"without": service.create_training_client_from_state}).items():
        client = load(path).result(TIMEOUT)
        first = client.forward_backward(supervised((9, 14), 30), "cross_entropy").result(TIMEOUT)
        client.optim_step(OFFICIAL_ADAM).result(TIMEOUT)
        second = client.forward(supervised((9, 14), 30), "cross_entropy").result(TIMEOUT)
        found[f"{how} its optimizer"] = [first.metrics["loss:sum"], second.metrics["loss:sum"]]
    return found


def _sampled(service: tinker.ServiceClient, path: str) -> dict[str, Any]:
    sampler = service.create_sampling_client(model_path=path).result(TIMEOUT)
    greedy = tinker.SamplingParams(max_tokens=10, temperature=0.0, stop=[])
    answer = sampler.sample(tinker.ModelInput.from_ints([1, 2, 3]), 1, greedy).result(TIMEOUT)
    return {"base_model": MODEL, "greedy": list(answer.sequences[0].tokens)}
