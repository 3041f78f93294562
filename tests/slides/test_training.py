"""The snippets of the later parts that use the API, against the embedded service."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.slides import snippets
from tests.slides.conftest import QWEN
from tinsmith import AdamParams, TrainingClient

chz = pytest.importorskip("chz")

CHAT = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in ["ab", "cd"]]


class Rows(list[dict[str, Any]]):
    """As much of a `datasets.Dataset` as the slide uses."""

    def select(self, indices: range) -> Rows:
        return Rows(self[i] for i in indices)


@pytest.mark.row(57, 58, 59, 60, 61, 62)
def test_anatomy_of_a_training_script() -> None:
    """Steps 1 to 4, in one namespace, as a script would have them."""
    from tinsmith.cookbook import model_info, renderers
    from tinsmith.cookbook.supervised import conversation_to_datum
    from tinsmith.cookbook.tokenizer_utils import get_tokenizer

    names: dict[str, Any] = {
        "chz": chz,
        "renderers": renderers,
        "get_tokenizer": get_tokenizer,
        "conversation_to_datum": conversation_to_datum,
        "tinsmith": tinsmith,
        "ALL_ASSISTANT_MESSAGES": renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        "__name__": __name__,
    }
    snippets.run(snippets.CONFIG, names)
    config = chz.entrypoint(names["Config"], argv=[f"model_name={QWEN}", "learning_rate=5e-5"])
    assert (config.model_name, config.learning_rate, config.batch_size, config.lora_rank) == (QWEN, 5e-5, 128, 32)
    names["config"] = SimpleNamespace(**chz.asdict(config), base_url=None, max_length=64)
    names["renderer_name"] = model_info.get_recommended_renderer_name(QWEN)
    snippets.run(snippets.SETUP, names)
    snippets.run(snippets.TRAINING_CLIENT, names)
    with names["service_client"]:
        adam = AdamParams(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-8)
        loop = {"train_dataset": Rows(CHAT), "batch_start": 0, "batch_end": 2, "start_batch": 0, "n_train_batches": 4}
        names |= loop | {"adam_params": adam}
        snippets.run(snippets.TRAINING_LOOP, names)
        result = names["fwd_bwd_result"]
        first = names["training_client"].get_info()
        assert (first.lora_rank, first.model_data.model_name) == (32, QWEN)
        weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in names["batch"]]
        logprobs = [output["logprobs"].to_numpy() for output in result.loss_fn_outputs]
        nll = -sum(float((w * lp).sum()) for w, lp in zip(weights, logprobs, strict=True))
        assert result.metrics["loss:sum"] == pytest.approx(nll, rel=1e-5)
        assert names["_optim_result"].metrics["adam_step"] == 4


@pytest.mark.row(37, 51)
def test_async_pattern(names: dict[str, Any]) -> None:
    names["adam_params"] = AdamParams(learning_rate=1e-3)
    losses = []
    for _ in range(3):
        snippets.run(snippets.ASYNC_PATTERN, names)
        losses.append(names["fwd_bwd_result"].metrics["loss:sum"])
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[2]


@pytest.mark.row(4, 15)
def test_cross_entropy(training: TrainingClient, names: dict[str, Any]) -> None:
    snippets.run(snippets.CROSS_ENTROPY, names)
    assert training.optim_step().result().metrics["grad_norm"] > 0


@pytest.mark.row(66)
def test_learning_rate() -> None:
    names: dict[str, Any] = {}
    snippets.run(snippets.LEARNING_RATE, names)
    assert names["lr"] == pytest.approx(2.856415e-4, rel=1e-6)


@pytest.mark.row(114, 115, 117)
def test_checkpoints(training: TrainingClient, names: dict[str, Any]) -> None:
    """`load_state` brings weights and optimizer back: from there on all is as if nothing had been in between."""
    data, adam = names["data"], AdamParams(learning_rate=1e-3)

    def step() -> float:
        loss = training.forward_backward(data, "cross_entropy")
        training.optim_step(adam)
        return loss.result().metrics["loss:sum"]

    step()
    uri = training.save_state()
    straight_on = [step() for _ in range(3)]
    training.load_state(uri)
    again = [step() for _ in range(3)]
    np.testing.assert_allclose(again, straight_on, rtol=1e-6)
    snippets.run(snippets.CHECKPOINTS, names)
    assert names["uri"].result().path == f"tinker://{training.model_id}/weights/{names['uri'].rpartition('/')[2]}"
