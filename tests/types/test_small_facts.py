"""Paths, compression, metrics, learning rates, errors."""

from __future__ import annotations

import pickle

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.types.compression import zstd_compress, zstd_decompress
from tinsmith.types.engine_messages.host_events import Failure, Flushed, Lost, Ready, Result, Stats
from tinsmith.types.engine_messages.operation_codec import event_from_frame, event_to_frame
from tinsmith.types.errors import (
    APIStatusError,
    BadRequestError,
    InternalServerError,
    RequestErrorCategory,
    RequestFailedError,
    UserError,
    status_error,
)
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.learning_rate import default_adam_params, learning_rate
from tinsmith.types.facts.lineup import LINEUP, SUGGESTED_MODELS, lookup
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.outputs import reduce_metrics


@pytest.mark.row(66)
def test_learning_rates_of_the_course() -> None:
    assert learning_rate("llama", 4096) == pytest.approx(2.856415e-4, rel=1e-6)
    assert learning_rate("qwen", 4096) == pytest.approx(4.729791e-4, rel=1e-6)
    assert learning_rate("qwen", 4096, is_lora=False) == pytest.approx(4.729791e-5, rel=1e-6)
    assert default_adam_params("qwen3", 4096).learning_rate == learning_rate("qwen", 4096)


@pytest.mark.row(13, 14)
def test_the_lineup_has_every_size_of_the_course() -> None:
    sizes: dict[str, set[int]] = {}
    for facts in LINEUP.values():
        sizes.setdefault(facts.family, set()).add(round(facts.parameters_b))
    assert {1, 3, 8, 71, 406} <= sizes["llama"]
    assert {2, 8, 15, 33, 73, 235} <= sizes["qwen"]
    assert {facts.kind for facts in LINEUP.values()} == {"base", "instruct", "hybrid", "reasoning"}
    assert any(facts.is_moe for facts in LINEUP.values())
    assert all(lookup(name) for name in SUGGESTED_MODELS)


RUNS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_:.-]{0,20}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(RUNS, st.sampled_from(["weights", "sampler_weights"]), NAMES)
def test_paths_round_trip(run: str, kind: str, name: str) -> None:
    path = CheckpointPath.parse(f"tinker://{run}/{kind}/{name}")
    assert str(path) == f"tinker://{run}/{kind}/{name}"
    assert path.checkpoint_type == ("training" if kind == "weights" else "sampler")


@pytest.mark.parametrize(
    "path",
    ["", "run/weights/a", "tinker://run/weights", "tinker://run/weights/a/b", "tinker://run/other/a",
     "tinker://run/weights/..", "tinker://../weights/a", "tinker:///weights/a", "tinker://run/weights/a b"],
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="expected tinker://RUN/weights/NAME"):
        CheckpointPath.parse(path)


@given(st.binary(max_size=5000))
def test_zstd_round_trips_with_and_without_a_stated_size(data: bytes) -> None:
    assert zstd_decompress(zstd_compress(data), limit=5000) == data
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    assert zstd_decompress(stream.compress(data) + stream.flush(), limit=5000) == data


def test_a_truncated_frame_a_bomb_and_noise_are_refused() -> None:
    packed = zstd_compress(b"x" * 100_000)
    with pytest.raises(UserError, match="truncated zstd frame"):
        zstd_decompress(packed[:-3], limit=200_000)
    with pytest.raises(UserError, match="at most 1000 bytes") as refused:
        zstd_decompress(packed, limit=1000)
    assert refused.value.status == 413
    with pytest.raises(UserError, match="no zstd stream"):
        zstd_decompress(b"not zstd at all", limit=1000)


def test_metrics_of_chunks_merge_by_their_suffix() -> None:
    keys = ["a:sum", "b:mean", "c:max", "d:min", "e:slack", "f:unique", "g:odd"]
    merged = reduce_metrics([(dict.fromkeys(keys, 1.0), 3), (dict.fromkeys(keys, 5.0), 1)])
    expected = {"a:sum": 6, "b:mean": 2, "c:max": 5, "d:min": 1, "e:slack": 3, "f:unique": 1, "f:unique_1": 5}
    assert merged == expected
    assert reduce_metrics([({"a:sum": 1, "x:sum": 1}, 1), ({"a:sum": 1}, 1)]) == {"a:sum": 2}
    assert reduce_metrics([({"h:hash2": 2.0**63}, 1), ({"h:hash2": 2.0**63}, 1)]) == {"h:hash2": 0.0}


def test_errors_pickle_and_know_their_status() -> None:
    error = pickle.loads(pickle.dumps(RequestFailedError("no", "r1", RequestErrorCategory.USER)))
    assert (str(error), error.request_id, error.category) == ("no", "r1", "user")
    refused = pickle.loads(pickle.dumps(status_error(400, {"detail": "bad"})))
    assert isinstance(refused, BadRequestError)
    assert str(refused) == "bad (HTTP 400)"
    assert isinstance(status_error(503, None), InternalServerError)
    assert type(status_error(418, "tea")) is APIStatusError
    assert RequestErrorCategory.parse("odd") is RequestErrorCategory.UNKNOWN


def test_events_round_trip() -> None:
    info = BaseModelInfo(
        name="m", architecture="a", model_type="t", vocab_size=1, hidden_size=1, num_layers=1, context_length=1
    )
    events = [
        Result("r", b"x"),
        Failure("r", "no", RequestErrorCategory.USER),
        Flushed("r"),
        Ready([info]),
        Lost("died"),
        Lost("silent", "stopped"),
        Stats({"queue": 1.0}),
        Stats({"queue": 1.0}, ["r", "s"]),
    ]
    assert [event_from_frame(event_to_frame(event)) for event in events] == events
