"""Adapters in and whole models out, against a real `tinsmith serve` and the embedded service."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.adapters import make_foreign, token_logprobs
from tests.support.live_server import LLAMA, MOE, QWEN2, QWEN3, LiveServer
from tests.support.peft_reference import load_reference
from tinsmith import AdamParams, APIStatusError, Datum, RequestFailedError, RestClient, ServiceClient
from tinsmith.client.checkpoints.adapter_upload import ImportedCheckpoint
from tinsmith.client.transport.futures import APIFuture
from tinsmith.types.errors import UserError
from tinsmith.weights import export_merged

_PEFT = ("ignore:.*tie_word_embeddings", "ignore:The following (rank|alpha)_pattern", "ignore:Setting `save_embedding")
pytestmark = [pytest.mark.row(217), pytest.mark.filterwarnings(*_PEFT)]

TOKENS = [5, 250, 17, 99, 99, 3, 128, 64, 200, 7, 7, 42]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def datum() -> Datum:
    return Datum(tokens=TOKENS[:-1], targets=TOKENS[1:], weights=[1.0] * (len(TOKENS) - 1))


def check(client: ServiceClient, path: str, wanted: torch.Tensor) -> None:
    found = client.create_sampling_client(path).compute_logprobs(TOKENS).result()
    assert found[0] is None
    np.testing.assert_allclose(np.array(found[1:], float), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (LLAMA, {"target_modules": "all-linear", "lora_alpha": 3}),
        (QWEN2, {"target_modules": r".*(q_proj|up_proj|lm_head)", "use_rslora": True, "lora_alpha": 2}),
        (
            QWEN3,
            {"target_modules": ["v_proj", "down_proj"], "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"v_proj": 5}},
        ),
        (MOE, {"target_modules": ["k_proj"], "target_parameters": EXPERTS, "lora_alpha": 2}),
    ],
    ids=["llama", "qwen2", "qwen3", "qwen3_moe"],
)
def test_an_adapter_of_peft_samples_and_trains_here_and_leaves_again(
    model: str, options: dict[str, Any], live_server: LiveServer, tmp_path: Path
) -> None:
    base = Path(live_server.models[model])
    wanted = token_logprobs(make_foreign(base, tmp_path / "foreign", **options), TOKENS)
    rest = RestClient(base_url=live_server.url, api_key=live_server.key)
    imported = rest.import_checkpoint(tmp_path / "foreign", base_model=model, name="mine").result()
    assert imported.state_path.endswith("/weights/mine")
    assert imported.sampler_path.endswith("/sampler_weights/mine")
    with ServiceClient(base_url=live_server.url, api_key=live_server.key) as service:
        check(service, imported.sampler_path, wanted)
        for make in (
            service.create_training_client_from_state,
            service.create_training_client_from_state_with_optimizer,
        ):
            training = make(imported.state_path)
            output = training.forward_backward([datum()], "cross_entropy").result()
            found = output.loss_fn_outputs[0]["logprobs"].to_numpy()
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
            training.optim_step(AdamParams(learning_rate=1e-3)).result()
        trained = training.save_state("trained").result().path
    # What was trained on leaves as a PEFT folder and as a whole model, and both say the same.
    folder = rest.download_checkpoint(trained, tmp_path / "out").result()
    after = token_logprobs(load_reference(base, folder, torch.float32, trainable=False), TOKENS)
    assert (after - wanted).abs().max() > 1e-4
    whole = export_merged(
        trained, tmp_path / "merged", base=base, base_url=live_server.url, api_key=live_server.key, dtype="fp32"
    )
    merged = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32, experts_implementation="eager")
    torch.testing.assert_close(token_logprobs(merged, TOKENS), after, rtol=1e-5, atol=1e-5)


def test_embedded_equals_served(live_server: LiveServer, tmp_path: Path) -> None:
    base = live_server.models[LLAMA]
    make_foreign(Path(base), tmp_path / "foreign", target_modules=["q_proj"])
    served = RestClient(base_url=live_server.url, api_key=live_server.key)
    pairs = [(served, LLAMA), (RestClient(), base)]
    found = []
    for i, (client, model) in enumerate(pairs):
        imported = client.import_checkpoint(tmp_path / "foreign", base_model=model).result()
        folder = client.download_checkpoint(imported.sampler_path, tmp_path / str(i)).result()
        found.append(load_file(folder / "adapter_model.safetensors"))
        assert client.get_training_run_by_tinker_path(imported.state_path).result().base_model == model
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.row(36)
def test_what_cannot_come_in_says_why(live_server: LiveServer, tmp_path: Path) -> None:
    rest = RestClient(base_url=live_server.url, api_key=live_server.key)
    base = Path(live_server.models[LLAMA])
    with pytest.raises(UserError, match=r"folder: got '.*', expected a PEFT folder with adapter_config.json"):
        rest.import_checkpoint(tmp_path, base_model=LLAMA)
    make_foreign(base, tmp_path / "a", target_modules=["q_proj"])
    with pytest.raises(UserError, match="name: got 'a b', expected 1 to 200 letters"):
        rest.import_checkpoint(tmp_path / "a", base_model=LLAMA, name="a b")
    with pytest.raises(APIStatusError, match="base_model: got 'gpt-5', expected one of"):
        rest.import_checkpoint(tmp_path / "a", base_model="gpt-5").result()
    # Only the engine knows what the base has.
    make_foreign(base, tmp_path / "mlp", target_modules=["up_proj"])
    with pytest.raises(RequestFailedError, match=r"adapter refused: adapter: .*lora_A.weight, expected only weights"):
        rest.import_checkpoint(tmp_path / "mlp", base_model=MOE, name="refused").result()
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(APIStatusError, match=r"adapter_config.json: use_dora: got True, expected it to be off"):
        rest.import_checkpoint(tmp_path / "a", base_model=LLAMA, name="refused").result()
    config.write_text("{")
    with pytest.raises(UserError, match=r"adapter_config\.json: got a text that is no JSON"):
        rest.import_checkpoint(tmp_path / "a", base_model=LLAMA)
    listed = rest.list_user_checkpoints().result().checkpoints
    assert not [c for c in listed if c.checkpoint_id.endswith("/refused")]


def test_a_base_is_found_by_the_name_that_the_adapter_gives(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(live_server.models[QWEN2])
    make_foreign(base, tmp_path / "a", target_modules=["q_proj"])
    config = tmp_path / "a" / "adapter_config.json"
    fields = json.loads(config.read_text())

    def name(value: str | None) -> None:
        config.write_text(json.dumps(fields | {"base_model_name_or_path": value}))

    name(str(base))
    assert export_merged(tmp_path / "a", tmp_path / "by folder").is_dir()
    name("served/name")
    with pytest.raises(UserError, match=r"base: got 'served/name', which is no folder.*: say where it is here"):
        export_merged(tmp_path / "a", tmp_path / "lost")
    monkeypatch.setenv("TINSMITH_MODELS", f"served/name={base}")
    assert export_merged(tmp_path / "a", tmp_path / "by name").is_dir()
    name(None)
    with pytest.raises(UserError, match="base: got None, expected a folder or hub id"):
        export_merged(tmp_path / "a", tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.row(210, 211)
def test_imports_outlive_a_service_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """kill -9 at moments that the imports know nothing of: each is there in the end, and nothing else is."""
    server = LiveServer(tmp_path, LLAMA)
    server.start()
    try:
        wanted = token_logprobs(make_foreign(Path(server.models[LLAMA]), tmp_path / "foreign", r=64), TOKENS)
        rest = RestClient(base_url=server.url, api_key=server.key)
        imports: list[APIFuture[ImportedCheckpoint]] = []
        rng = random.Random(0)
        for _ in range(4):
            imports += [rest.import_checkpoint(tmp_path / "foreign", base_model=LLAMA) for _ in range(2)]
            time.sleep(rng.uniform(0.0, 0.4))
            server.kill()
            server.start()
        paths = [done.result(120) for done in imports]
        assert len({done.state_path for done in paths}) == len(imports)
        with ServiceClient(base_url=server.url, api_key=server.key) as service:
            for done in paths:
                check(service, done.sampler_path, wanted)
            service.create_training_client_from_state(paths[0].state_path).result()
        listed = rest.list_user_checkpoints(limit=1000).result().checkpoints
        # A request whose answer was lost is recognised; one that was killed before it was stored left nothing.
        assert len(listed) == 2 * len(imports)
    finally:
        server.stop()
    folders = server.data_dir / "checkpoints"
    assert len(list(folders.glob("*/*/*"))) == 2 * len(imports)
