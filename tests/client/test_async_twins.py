"""Every operation has an `_async` twin with the same parameters, and tools see what awaiting it gives."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
from typing import Any, get_type_hints

import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import RestClient, SamplingClient, ServiceClient, TrainingClient
from tinsmith.client.transport.async_twins import awaiting, submitting
from tinsmith.client.transport.futures import APIFuture

CLIENTS = [ServiceClient, TrainingClient, SamplingClient, RestClient]
TWINS = [(client, name) for client in CLIENTS for name in vars(client) if name.endswith("_async")]


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("client", "name"), TWINS)
def test_a_twin_takes_what_its_method_takes(client: type, name: str) -> None:
    twin, method = getattr(client, name), getattr(client, name.removesuffix("_async"))
    assert inspect.iscoroutinefunction(twin)
    assert _parameters(twin) == _parameters(method)
    assert (twin.__name__, twin.__qualname__) == (name, f"{client.__name__}.{name}")
    assert twin.__doc__


@pytest.mark.parametrize(("client", "name"), TWINS)
def test_the_types_of_a_twin_can_be_looked_up(client: type, name: str) -> None:
    twin, method = getattr(client, name), getattr(client, name.removesuffix("_async"))
    hints, expected = get_type_hints(twin), get_type_hints(method)
    assert hints.pop("return")
    expected.pop("return")
    assert hints == expected


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (
            TrainingClient.forward_backward_async,
            "async forward_backward_async(self, data: 'TrainingData', loss_fn: 'str', "
            "loss_fn_config: 'LossConfig | None' = None, **config: 'float | str') "
            "-> 'APIFuture[ForwardBackwardOutput]'",
        ),
        (
            SamplingClient.compute_logprobs_async,
            "async compute_logprobs_async(self, prompt: 'ModelInput | Sequence[int]', "
            "prompt_logprobs_last_n: 'int | None' = None) -> 'list[float | None]'",
        ),
        (
            TrainingClient.create_sampling_client_async,
            "async create_sampling_client_async(self, model_path: 'str', retry_config: 'None' = None, "
            "record_stability_info: 'bool' = False) -> 'SamplingClient'",
        ),
    ],
)
def test_help_shows_parameters_result_and_docstring(function: Any, line: str) -> None:
    shown = pydoc.plain(pydoc.render_doc(function))
    assert line in shown
    assert "Asynchronous twin of `" in shown
    assert inspect.signature(function).return_annotation == function.__annotations__["return"]


class _Answers:
    """A client of one method."""

    def ask(self, question: str, *, times: int = 1) -> _Answer:
        """Ask."""
        return _Answer(question * times)

    ask_async = submitting(ask)
    answer_async = awaiting(ask)


class _Answer(APIFuture[str]):
    def __init__(self, text: str) -> None:
        self.text = text

    async def result_async(self, timeout: float | None = None) -> str:
        return self.text

    def future(self) -> Any:
        raise NotImplementedError


class _Louder(_Answers):
    def ask(self, question: str, *, times: int = 1) -> _Answer:
        return super().ask(question.upper(), times=times)


async def _both(client: _Answers) -> tuple[str, str]:
    submitted = await client.ask_async("why", times=2)
    return submitted.text, await client.answer_async("why")


def test_one_kind_gives_the_future_and_the_other_its_result() -> None:
    assert asyncio.run(_both(_Answers())) == ("whywhy", "why")


def test_a_subclass_that_replaces_a_method_has_replaced_its_twin() -> None:
    assert asyncio.run(_both(_Louder())) == ("WHYWHY", "WHY")


def test_awaiting_a_twin_submits_and_its_future_gives_the_result(fake: FakeService, service: ServiceClient) -> None:
    async def train() -> tuple[float, int]:
        training = await service.create_lora_training_client_async("tinsmith-tiny")
        first = await training.forward_backward_async(batch(2), "cross_entropy")
        await (await training.optim_step_async())
        sampler = await training.save_weights_and_get_sampling_client_async()
        sampled = await sampler.sample_async([1, 2], 3, {"max_tokens": 2})
        return (await first).metrics["loss:sum"], len(sampled.sequences)

    loss, count = asyncio.run(train())
    assert loss > 0
    assert count == 3
    assert [kind for _, kind, _ in fake.models["s-0:train:0"].log] == [
        "forward_backward",
        "optim_step",
        "save_weights_for_sampler",
    ]
