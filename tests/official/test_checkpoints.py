"""Saving, loading and resuming with the official SDK: what comes back is what was saved."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
import tinker

from tests.official.batches import logprobs_of, model_input, supervised, worst
from tests.official.conftest import NewModel
from tests.official.reference import Reference, adapter_weights, distance
from tests.support.live_server import LLAMA, LiveServer, model_folder

ADAM = tinker.AdamParams(learning_rate=1e-2, eps=1e-8)
DATA = supervised((20, 9))
PROBE = supervised((30,), seed=9)


def train(model: tinker.TrainingClient, steps: int) -> None:
    for _ in range(steps):
        model.forward_backward(DATA, "cross_entropy")
        model.optim_step(ADAM).result(timeout=60)


def probe(model: tinker.TrainingClient) -> list:
    return logprobs_of(model.forward(PROBE, "cross_entropy").result(timeout=60))


@pytest.mark.row(114, 117, 201)
def test_resuming_with_the_optimizer_equals_never_having_stopped(
    new_model: NewModel, service: tinker.ServiceClient, live_server: LiveServer
) -> None:
    model = new_model()
    train(model, 3)
    path = model.save_state("middle").result(timeout=60).path
    assert path == f"tinker://{model.model_id}/weights/middle"
    resumed = service.create_training_client_from_state_with_optimizer(path).result(timeout=60)
    fresh = service.create_training_client_from_state(path).result(timeout=60)
    assert len({model.model_id, resumed.model_id, fresh.model_id}) == 3
    assert (resumed.get_info().lora_rank, resumed.get_info().model_name) == (8, LLAMA)
    for loaded in (resumed, fresh):
        assert worst(probe(loaded), probe(model)) <= 1e-7
    for each in (model, resumed, fresh):
        train(each, 2)
    assert worst(probe(resumed), probe(model)) <= 1e-7
    folders = [live_server.checkpoint_folder(m.save_state("end").result(timeout=60).path) for m in (model, resumed)]
    assert distance(*map(adapter_weights, folders)) <= 1e-7
    # Without its moments Adam takes other steps.
    assert worst(probe(fresh), probe(model)) > 1e-4


@pytest.mark.row(15, 117)
def test_loading_into_a_live_model_with_and_without_the_optimizer(new_model: NewModel) -> None:
    model = new_model()
    train(model, 2)
    path = model.save_state("here").result(timeout=60).path
    at_save = probe(model)
    train(model, 2)
    two_further = probe(model)
    model.load_state_with_optimizer(path).result(timeout=60)
    assert worst(probe(model), at_save) <= 1e-7
    train(model, 2)
    assert worst(probe(model), two_further) <= 1e-7
    model.load_state(path).result(timeout=60)
    assert worst(probe(model), at_save) <= 1e-7
    train(model, 2)
    assert worst(probe(model), two_further) > 1e-4


@pytest.mark.row(114, 117)
def test_saved_adapters_load_in_plain_peft(new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model()
    train(model, 3)
    state = live_server.checkpoint_folder(model.save_state("full").result(timeout=60).path)
    sampler = live_server.checkpoint_folder(model.save_weights_for_sampler("slim").result(timeout=60).path)
    for folder in (state, sampler):
        assert worst(probe(model), Reference(model_folder(LLAMA), folder).forward(PROBE)) <= 1e-5
    sizes = [sum(f.stat().st_size for f in folder.iterdir()) for folder in (state, sampler)]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.row(114, 201)
def test_a_saved_sampler_samples_with_the_weights_that_were_saved(
    new_model: NewModel, service: tinker.ServiceClient, rest: tinker.RestClient
) -> None:
    model = new_model()
    train(model, 3)
    path = model.save_weights_for_sampler("after-3").result(timeout=60).path
    assert path == f"tinker://{model.model_id}/sampler_weights/after-3"
    snapshot = model.save_weights_and_get_sampling_client().result(timeout=60)
    train(model, 3)
    ids = list(range(10, 40))
    for sampler in (
        service.create_sampling_client(model_path=path).result(timeout=60),
        model.create_sampling_client(path).result(timeout=60),
    ):
        assert sampler.get_base_model() == LLAMA
        found = sampler.compute_logprobs(model_input(ids)).result(timeout=60)
        assert found == pytest.approx(snapshot.compute_logprobs(model_input(ids)).result(timeout=60), abs=1e-6)
        info = rest.get_sampler(sampler._sampling_session_id).result(timeout=60)
        assert (info.base_model, info.model_path) == (LLAMA, path)


@pytest.mark.row(201)
def test_a_name_that_is_taken_is_refused_and_overwrite_replaces(
    new_model: NewModel, rest: tinker.RestClient, service: tinker.ServiceClient
) -> None:
    model = new_model()
    path = model.save_state("name", user_metadata={"step": "0"}).result(timeout=60).path
    train(model, 1)
    start = time.monotonic()
    with pytest.raises(tinker.RequestFailedError, match="name"):
        model.save_state("name").result(timeout=60)
    assert time.monotonic() - start < 20, "a name that is taken must not be retried"
    assert model.save_state("name", overwrite=True).result(timeout=60).path == path
    listed = rest.list_checkpoints(model.model_id).result(timeout=60).checkpoints
    assert [(c.checkpoint_id, c.user_metadata) for c in listed] == [("weights/name", None)]
    again = service.create_training_client_from_state(path).result(timeout=60)
    assert worst(probe(again), probe(model)) <= 1e-7


@pytest.mark.row(201)
def test_lifetimes_are_set_changed_and_removed(new_model: NewModel, rest: tinker.RestClient) -> None:
    model = new_model()
    before = datetime.now(UTC)
    path = model.save_state("mortal", ttl_seconds=7200, user_metadata={"note": "x"}).result(timeout=60).path

    def expiry() -> datetime | None:
        (found,) = rest.list_checkpoints(model.model_id).result(timeout=60).checkpoints
        assert (found.tinker_path, found.checkpoint_type, found.user_metadata) == (path, "training", {"note": "x"})
        return found.expires_at

    first = expiry()
    assert first is not None
    assert timedelta(seconds=7190) < first - before < timedelta(seconds=7300)
    rest.set_checkpoint_ttl_from_tinker_path(path, 86_400).result(timeout=60)
    later = expiry()
    assert later is not None
    assert later - first > timedelta(seconds=70_000)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(timeout=60)
    assert expiry() is None
    with pytest.raises(tinker.BadRequestError, match="ttl_seconds"):
        rest.set_checkpoint_ttl_from_tinker_path(path, 60).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match="ttl_seconds"):
        model.save_state("too-short", ttl_seconds=1).result(timeout=60)


@pytest.mark.row(201, 213)
def test_publish_unpublish_and_delete(
    new_model: NewModel, rest: tinker.RestClient, service: tinker.ServiceClient
) -> None:
    model = new_model()
    state = model.save_state("a").result(timeout=60).path
    sampler = model.save_weights_for_sampler("b").result(timeout=60).path

    def public() -> dict[str, bool]:
        listed = rest.list_checkpoints(model.model_id).result(timeout=60).checkpoints
        return {c.tinker_path: c.public for c in listed}

    assert public() == {state: False, sampler: False}
    for _ in range(2):  # publishing twice is no error: this SDK would retry one for minutes
        rest.publish_checkpoint_from_tinker_path(state).result(timeout=60)
    assert public() == {state: True, sampler: False}
    for _ in range(2):
        rest.unpublish_checkpoint_from_tinker_path(state).result(timeout=60)
    assert public() == {state: False, sampler: False}
    rest.delete_checkpoint_from_tinker_path(state).result(timeout=60)
    assert public() == {sampler: False}
    with pytest.raises(tinker.RequestFailedError, match="weights/a"):
        service.create_training_client_from_state(state).result(timeout=60)
    rest.delete_checkpoint(model.model_id, "sampler_weights/b").result(timeout=60)
    assert public() == {}
    # The run itself lives on.
    train(model, 1)


@pytest.mark.row(201)
def test_weights_info_and_the_run_of_a_path(new_model: NewModel, rest: tinker.RestClient) -> None:
    model = new_model(train_mlp=False, user_metadata={"purpose": "test"})
    path = model.save_state("s").result(timeout=60).path
    info = rest.get_weights_info_by_tinker_path(path).result(timeout=60)
    assert (info.base_model, info.is_lora, info.lora_rank) == (LLAMA, True, 8)
    assert (info.train_attn, info.train_mlp, info.train_unembed) == (True, False, True)
    run = rest.get_training_run_by_tinker_path(path).result(timeout=60)
    assert (run.training_run_id, run.base_model, run.lora_rank) == (model.model_id, LLAMA, 8)
    assert run.user_metadata == {"purpose": "test"}
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.tinker_path == path
    assert run.last_sampler_checkpoint is None


@pytest.mark.row(53, 56)
def test_awaiting_gives_the_same_as_result(new_model: NewModel) -> None:
    model = new_model()

    async def run() -> tuple[float, float, float]:
        future = model.forward(DATA, "cross_entropy")
        once = await future
        again = await model.forward(DATA, "cross_entropy").result_async(timeout=60)
        twice = await (await model.forward_async(DATA, "cross_entropy"))
        return tuple(output.metrics["loss:sum"] for output in (once, again, twice))  # pyright: ignore

    losses = asyncio.run(run())
    assert len(set(losses)) == 1
