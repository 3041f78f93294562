"""A data folder that the code of before left behind, killed with signal 9, is opened by the code of today.

One server is started on a copy of it; the tests look at what became of the operations that had no outcome, and of
everything else that such a folder holds.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.spawn import ServerProcess
from tests.compatibility import observing
from tests.compatibility.comparing import assert_close, assert_same_json, assert_same_message
from tests.compatibility.serving import BEFORE, Raw, server_on
from tinsmith.types.proto import tinsmith_pb2 as pb

WEIGHTS = 1e-5


class Opened:
    """The copy, with its server.

    Attributes:
        facts: what the code of before saw of such a copy.
        raw: a client with the key of before.
        outcomes: of the operations in `facts`.
    """

    def __init__(self, folder: Path) -> None:
        self.facts: dict[str, Any] = json.loads((BEFORE / "facts.json").read_text())
        self.data_dir = folder / "data"
        shutil.copytree(BEFORE / "data_folder", self.data_dir)
        # No key is given: the one that is stored must do.
        self.server: ServerProcess = server_on(self.data_dir, folder)
        self.server.start()
        self.raw = Raw(self.server.url)
        self.outcomes = [observing.outcome(self.raw, one["request_id"]) for one in self.facts["operations"]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The copy; what one test adds to it, the next ones do not look at."""
    found = Opened(tmp_path_factory.mktemp("before"))
    yield found
    found.server.stop()


def test_a_journal_of_the_first_form_is_replayed(opened: Opened) -> None:
    """Every operation is known by its id: what was settled is answered byte for byte, what was pending is done."""
    operations = opened.facts["operations"]
    assert {one["kind"] for one in operations if one["state"] == "pending"} >= {
        "create_model", "load_state", "forward_backward", "optim_step", "save_state", "save_sampler", "snapshot",
        "sample",
    }  # fmt: skip
    for found, expected in zip(opened.outcomes, operations, strict=True):
        if expected["state"] == "pending":
            _assert_same_outcome(found, expected)
        else:
            assert found == {name: expected[name] for name in found}, expected


def _assert_same_outcome(found: dict[str, Any], expected: dict[str, Any]) -> None:
    where = f"{expected['kind']} {expected['model_id']} {expected['seq_id']}"
    assert found["type"] == expected["type"], f"{where}: {found}"
    if "text" in expected:
        assert_same_json(found["text"], expected["text"], where)
        return
    message = pb.SampleResponse if expected["kind"] == "sample" else pb.ForwardBackwardOutput
    one, other = (message.FromString(base64.b64decode(each["base64"])) for each in (found, expected))
    assert_same_message(one, other, where)


def test_the_official_sdk_resumes_and_samples_every_checkpoint_of_before(opened: Opened) -> None:
    """States give the same losses, with and without their optimizer; sampler weights the same greedy tokens."""
    expected = opened.facts["checkpoints"]
    assert expected.keys() <= set(observing.listed_checkpoints(opened.server.url))
    found = dict(observing.use_checkpoints(opened.server.url, expected))
    for path, wanted in expected.items():
        assert found[path].keys() == wanted.keys(), path
        for name, value in wanted.items():
            if name.endswith("optimizer"):
                assert_close(found[path][name], value, f"{path}: {name}")
            else:
                assert found[path][name] == value, f"{path}: {name}"


def test_replayed_runs_have_the_weights_and_moments_of_before(opened: Opened) -> None:
    """Runs from a recovery point, from a creation and from a loaded state, and those that were only asked for."""
    for model, wanted in opened.facts["weights"].items():
        found = observing.save_and_sketch(opened.raw, opened.data_dir, model, "after")
        assert found.keys() == wanted.keys(), model
        for tensor, values in wanted.items():
            scale = max(abs(values[0]), 1e-12)
            np.testing.assert_allclose(found[tensor], values, 0, WEIGHTS * scale, err_msg=f"{model}: {tensor}")


def test_training_goes_on_where_it_stopped(opened: Opened) -> None:
    """The runs of before take further passes and steps, with the outcomes that they had with the code of before."""
    for model, wanted in opened.facts["training goes on"].items():
        for found, expected in zip(observing.train_on(opened.raw, opened.data_dir, model), wanted, strict=True):
            _assert_same_outcome(found, {"kind": "training", "model_id": model, "seq_id": None} | expected)


@pytest.mark.slow  # the first form alone is replayed by the test above
def test_a_journal_of_both_forms_is_replayed(opened: Opened) -> None:
    """Killed once more, the folder holds operations of before and of today; both are there, and training goes on."""
    model = next(iter(opened.facts["weights"]))
    before = observing.save_and_sketch(opened.raw, opened.data_dir, model, "both")
    opened.server.kill()
    opened.server.start()
    for expected in opened.facts["operations"]:
        found = observing.outcome(opened.raw, expected["request_id"])
        assert found["type"] == expected["type"], expected
    assert observing.save_and_sketch(opened.raw, opened.data_dir, model, "again") == before
