"""Listings, sessions and capabilities with the official SDK."""

from __future__ import annotations

import pytest
import tinker

from tests.official.batches import supervised
from tests.official.conftest import NewModel
from tests.support.checkpoints import SHAPE
from tests.support.live_server import FAMILY_OF, LLAMA, LiveServer


@pytest.mark.row(13, 27, 203)
def test_capabilities_list_every_model_with_its_context(rest: tinker.RestClient, live_server: LiveServer) -> None:
    found = rest.get_server_capabilities().result(timeout=60).supported_models
    assert {model.model_name for model in found} == set(live_server.models) >= set(FAMILY_OF)
    for model in found:
        assert (model.max_context_length, model.trainable, model.sampleable) == (SHAPE.context_length, True, True)


@pytest.mark.row(27, 201)
def test_a_session_names_its_runs_and_samplers(live_server: LiveServer, rest: tinker.RestClient) -> None:
    with tinker.ServiceClient(
        base_url=live_server.url, api_key=live_server.key, user_metadata={"team": "blue"}, display_name="one of ours"
    ) as service:
        model = service.create_lora_training_client(LLAMA, rank=4).result(timeout=60)
        sampler = model.save_weights_and_get_sampling_client().result(timeout=60)
        session_id = service.holder.get_session_id()
        assert model.model_id.startswith(f"{session_id}:train:")
        found = rest.get_session(session_id).result(timeout=60)
        assert found.training_run_ids == [model.model_id]
        assert sampler._sampling_session_id in found.sampler_ids
        assert (found.user_metadata, found.display_name) == ({"team": "blue"}, "one of ours")
        assert session_id in rest.list_sessions(limit=100).result(timeout=60).sessions
    # A finished session takes no more work, but its history stays.
    assert rest.get_session(session_id).result(timeout=60).training_run_ids == [model.model_id]


@pytest.mark.row(201)
def test_runs_are_listed_in_pages_newest_first(new_model: NewModel, rest: tinker.RestClient) -> None:
    models = [new_model(rank=rank) for rank in (2, 4)]
    models[1].forward(supervised((5,)), "cross_entropy").result(timeout=60)
    page = rest.list_training_runs(limit=100).result(timeout=60)
    total = page.cursor.total_count
    assert total >= 2
    runs = {run.training_run_id: run for run in page.training_runs}
    for model, rank in zip(models, (2, 4), strict=True):
        run = runs[model.model_id]
        assert (run.base_model, run.is_lora, run.lora_rank, run.corrupted) == (LLAMA, True, rank, False)
        assert rest.get_training_run(model.model_id).result(timeout=60).training_run_id == model.model_id
    everything = [run.training_run_id for run in page.training_runs]
    paged = []
    for offset in range(0, min(total, 6), 2):
        listed = rest.list_training_runs(limit=2, offset=offset).result(timeout=60)
        assert (listed.cursor.offset, listed.cursor.limit, listed.cursor.total_count) == (offset, 2, total)
        paged += [run.training_run_id for run in listed.training_runs]
    assert paged == everything[: len(paged)]


@pytest.mark.row(201)
def test_checkpoints_are_listed_per_run_and_over_all_runs(new_model: NewModel, rest: tinker.RestClient) -> None:
    one, other = new_model(), new_model()
    paths = [
        one.save_state("first").result(timeout=60).path,
        one.save_weights_for_sampler("second").result(timeout=60).path,
        other.save_state("third").result(timeout=60).path,
    ]
    mine = rest.list_checkpoints(one.model_id).result(timeout=60).checkpoints
    assert {(c.tinker_path, c.checkpoint_type) for c in mine} == {(paths[0], "training"), (paths[1], "sampler")}
    assert all(c.size_bytes and c.size_bytes > 1000 and c.expires_at is None for c in mine)
    listed = rest.list_user_checkpoints(limit=3).result(timeout=60)
    assert [c.tinker_path for c in listed.checkpoints] == paths[::-1]
    assert listed.cursor is not None
    assert listed.cursor.total_count >= 3
    rest_of_it = rest.list_user_checkpoints(limit=2, offset=1).result(timeout=60)
    assert [c.tinker_path for c in rest_of_it.checkpoints] == paths[1::-1]


@pytest.mark.row(201, 213)
def test_what_does_not_exist_is_a_404_that_names_it(rest: tinker.RestClient) -> None:
    for call in (
        lambda: rest.get_training_run("nobody:train:0"),
        lambda: rest.get_session("nobody"),
        lambda: rest.get_sampler("nobody:sample:0"),
        lambda: rest.get_weights_info_by_tinker_path("tinker://nobody:train:0/weights/x"),
        lambda: rest.delete_checkpoint("nobody:train:0", "weights/x"),
    ):
        with pytest.raises(tinker.NotFoundError, match="nobody"):
            call().result(timeout=60)
