"""A model that cannot be loaded is an answer, embedded as served: one line, at once, without a repetition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from tests.support.checkpoints import checkpoint
from tests.support.faults import FAULTS, POINTER, spoiled
from tinsmith import ModelInput, RequestFailedError, RestClient, SamplingParams, ServiceClient, TinsmithError
from tinsmith.client.tokenizer.tokenizer_sources import get_tokenizer
from tinsmith.embedded import ShieldedTransport
from tinsmith.types.errors import UserError

_TOLD = ("context a float", "tokenizer cut off", "NaN", "pad beyond the vocabulary", "weights a pointer")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Response]:
    """What the embedded service answers."""
    seen: list[httpx.Response] = []
    handle = ShieldedTransport.handle_async_request

    async def watch(self: ShieldedTransport, request: httpx.Request) -> httpx.Response:
        seen.append(await handle(self, request))
        return seen[-1]

    monkeypatch.setattr(ShieldedTransport, "handle_async_request", watch)
    return seen


@pytest.mark.parametrize("name", _TOLD)
def test_a_training_client_of_a_faulty_folder(name: str, tmp_path: Path, answers: list[httpx.Response]) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    folder = spoiled(fault, checkpoint("llama"), tmp_path / "mine")
    with ServiceClient() as client, pytest.raises(RequestFailedError) as raised:
        client.create_lora_training_client(str(folder), rank=4).get_info()
    assert all(word in raised.value.message for word in fault.told)
    assert "\n" not in raised.value.message
    assert max(answer.status_code for answer in answers) < 500


def test_a_sampling_client_of_a_faulty_folder(tmp_path: Path, answers: list[httpx.Response]) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "activation unknown")
    folder = spoiled(fault, checkpoint("llama"), tmp_path / "mine")
    with ServiceClient() as client:
        sampler = client.create_sampling_client(base_model=str(folder))
        sampled = sampler.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=1))
        with pytest.raises(TinsmithError, match=r"config\.json: hidden_act: got 'sillu'"):
            sampled.result()
    assert max(answer.status_code for answer in answers) < 500


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: got \[\]"),
        ("tokenizer.json", "{}", r"tokenizer\.json: model: got None"),
        ("special_tokens_map.json", "{", r"special_tokens_map\.json: got a text that is no JSON"),
        ("chat_template.jinja", b"\xff\xff", r"chat_template\.jinja: got bytes that are no UTF-8"),
    ],
)
def test_a_tokenizer_of_a_faulty_folder(file: str, content: str | bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((checkpoint("llama") / "tokenizer.json").read_bytes())
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        get_tokenizer(str(tmp_path))


def test_the_checkpoints_of_these_tests_look_like_those_of_transformers() -> None:
    config = json.loads((checkpoint("llama") / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 1000000000000000019884624838656


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"r": 10**30}, r"adapter_config\.json: r: got 10{30}, expected a whole number"),
        ({"use_rslora": "no"}, r"adapter_config\.json: use_rslora: got 'no', expected true or false"),
        ({"base_model_name_or_path": 5}, r"adapter_config\.json: base_model_name_or_path: got 5"),
        ("[" * 100_000, r"adapter_config\.json: got a text that is no JSON"),
        (POINTER, r"adapter_config\.json: got the pointer of a git-lfs file"),
    ],
    ids=["beyond 64 bits", "a text for a switch", "a number for a name", "deep", "pointer"],
)
def test_an_adapter_with_a_faulty_config(
    content: str | dict[str, Any], told: str, tmp_path: Path, answers: list[httpx.Response]
) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    written = json.dumps(config | content) if isinstance(content, dict) else content
    (tmp_path / "adapter_config.json").write_text(written)
    save_file({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises((UserError, TinsmithError), match=told):
        RestClient().import_checkpoint(tmp_path, base_model="tinsmith-tiny").result()
    assert all(answer.status_code < 500 for answer in answers)
