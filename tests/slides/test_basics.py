"""Every snippet from "Core API Overview" to "Futures Pattern", against the embedded service."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.slides import snippets
from tests.slides.conftest import LLAMA
from tinsmith import Completion, Datum, ServiceClient, TrainingClient

pytestmark = pytest.mark.usefixtures("_lineup")


@pytest.mark.row(15, 16, 37, 38)
def test_core_api_overview(training: TrainingClient, names: dict[str, Any]) -> None:
    """Bare names are methods of a client, and the slash means "and"."""
    methods = ("forward_backward", "optim_step", "sample", "save_weights_for_sampler", "save_state", "load_state")
    names |= {method: getattr(training, method) for method in methods}
    before = training.forward(names["data"], "cross_entropy").result().metrics["loss:sum"]
    snippets.run(snippets.CORE_API, names, ("save_state() / load_state()", "load_state(save_state())"))
    after = training.forward(names["data"], "cross_entropy").result().metrics["loss:sum"]
    assert after < before


@pytest.mark.row(17, 18, 19)
def test_installation() -> None:
    """`pip install -e .` brings no torch; the extras that the slide installs are there."""
    project = tomllib.loads((Path(tinsmith.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert not [r for r in project["dependencies"] if r.startswith(("torch", "transformers", "fastapi"))]
    assert {"cookbook", "server", "envs"} <= set(project["optional-dependencies"])
    assert any(r.startswith("torch") for r in project["optional-dependencies"]["server"])


@pytest.mark.row(20)
def test_installation_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-your_key_here")
    client = ServiceClient(base_url="http://localhost:1")
    assert client._session.connection.settings.api_key == "tml-your_key_here"


@pytest.mark.row(23, 24, 25, 27, 29)
def test_api_clients() -> None:
    names: dict[str, Any] = {}
    snippets.run(snippets.API_CLIENTS, names)
    with names["training"] as training, names["service"] as service:
        info = training.get_info()
        assert (info.lora_rank, info.model_data.model_name, info.model_data.arch) == (32, LLAMA, "llama")
        models = {model.model_name: model for model in service.list_models()}
        assert models[LLAMA].max_context_length == 1024
        assert models[LLAMA].kind == "base"
        assert "tinsmith-tiny" in models


@pytest.mark.row(32, 34)
def test_datum() -> None:
    names: dict[str, Any] = {}
    snippets.run(snippets.DATUM, names)
    datum = names["datum"]
    assert datum.model_input.to_ints() == [1234, 5678, 9012]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [5678, 9012, 3456]
    assert datum.loss_fn_inputs["weights"].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.row(26, 28, 37, 38)
def test_basic_workflow(data: list[Datum]) -> None:
    names: dict[str, Any] = {"TrainingClient": TrainingClient, "datum1": data[0], "datum2": data[1]}
    snippets.run(snippets.BASIC_WORKFLOW, names, (", ...]", "]"), ("{...}", '{"max_tokens": 4, "seed": 7}'))
    with names["training"] as training:
        response = names["response"]
        assert training.get_info().lora_rank == 32
        assert len(response) == 1
        assert isinstance(response[0], Completion)
        # The sample came from the weights after the step.
        after = training.forward(_as_datum(response[0]), "cross_entropy").result()
        prompt = len(response[0].prompt_tokens)
        learner = after.loss_fn_outputs[0]["logprobs"].to_numpy()[prompt - 1 :]
        np.testing.assert_allclose(learner, response[0].logprobs, atol=1e-5)


def _as_datum(completion: Completion) -> list[Datum]:
    tokens = [*completion.prompt_tokens, *completion.tokens]
    return [Datum(tokens=tokens[:-1], targets=tokens[1:])]


@pytest.mark.row(42)
def test_train_on_what() -> None:
    from enum import StrEnum

    from tinsmith.cookbook.renderers import TrainOnWhat

    names: dict[str, Any] = {"StrEnum": StrEnum}
    snippets.run(snippets.TRAIN_ON_WHAT, names)
    for member in names["TrainOnWhat"]:
        assert TrainOnWhat[member.name].value == member.value
        assert TrainOnWhat(member.value).name == member.name


@pytest.mark.row(33, 40)
def test_complete_data_flow() -> None:
    names: dict[str, Any] = {"tinsmith": tinsmith}
    snippets.run(
        f"datum = {snippets.DATA_FLOW_DATUM.strip()}",
        names,
        ("model_input=[...]", "model_input=[15, 23, 42, 7]"),
        ('"target_tokens": [...]', '"target_tokens": [23, 42, 7, 8]'),
        ("[0,0,1,1,...]", "[0,0,1,1]"),
    )
    assert names["datum"] == Datum(tokens=[15, 23, 42, 7], targets=[23, 42, 7, 8], weights=[0, 0, 1, 1])


@pytest.mark.row(47)
@pytest.mark.parametrize("model", [LLAMA, "Qwen/Qwen3-8B"])
def test_renderers(model: str) -> None:
    from tinsmith.cookbook import model_info, renderers

    names: dict[str, Any] = {
        "model_info": model_info,
        "renderers": renderers,
        "config": SimpleNamespace(model_name=model),
        "tokenizer": tinsmith.get_tokenizer(model),
    }
    snippets.run(snippets.RENDERERS, names)
    assert isinstance(names["renderer_name"], str)
    assert names["renderer"] is not None


@pytest.mark.row(51, 52, 53, 54, 56)
def test_futures_pattern(names: dict[str, Any]) -> None:
    names["params"] = {"max_tokens": 3, "n": 2, "seed": 5}
    snippets.run(snippets.FUTURES_PATTERN, names)
    assert names["result"] == names["future"].result() == list(names["future"])
    assert len(names["result"]) == 4


@pytest.mark.row(25, 30, 35)
def test_both_forms_are_one(data: list[Datum]) -> None:
    """Shorthand and later API: the same adapter, the same numbers, whatever holds the arrays."""
    import torch

    forms = [
        data,
        [Datum(model_input=d.model_input, loss_fn_inputs={k: v.to_numpy() for k, v in _inputs(d)}) for d in data],
        [Datum(model_input=d.model_input, loss_fn_inputs={k: v.tolist() for k, v in _inputs(d)}) for d in data],
        [Datum(d.model_input, {k: torch.from_numpy(v.to_numpy()) for k, v in _inputs(d)}) for d in data],
    ]
    with (
        TrainingClient(model_name=LLAMA, lora_config={"rank": 4, "seed": 3}) as short,
        ServiceClient() as service,
    ):
        long = service.create_lora_training_client(base_model=LLAMA, rank=4, seed=3)
        results = []
        for training in (short, long):
            outputs = [training.forward_backward(form, "cross_entropy").result() for form in forms]
            assert all(output == outputs[0] for output in outputs)
            training.optim_step().result()
            results.append((outputs[0], training.forward(data, "cross_entropy").result()))
        assert results[0] == results[1]
        assert results[0][0] != results[0][1]


def _inputs(datum: Datum) -> list[tuple[str, Any]]:
    return list(datum.loss_fn_inputs.items())
