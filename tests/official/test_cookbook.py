"""The unmodified `tinker-cookbook` 0.6.1 trains against `tinsmith serve`, stops, carries on, and says what we say."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import tinsmith
from tests.official.cookbook import Recipe, read_lines, write_lines
from tests.support.live_server import BASE_OF_THE_TABLES, LiveServer
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import compute_mean_nll, datum_from_tokens_weights
from tinsmith.cookbook.tokenizer_utils import get_tokenizer
from tinsmith.models import path as shipped_path

pytestmark = pytest.mark.row(202)

HERE = Path(__file__).parent
ROWS = pig_latin.rows(pig_latin.draw_words("train", 640))
HELD_OUT = pig_latin.rows(pig_latin.draw_words("held_out", 32))


@pytest.fixture(scope="module")
def model_folder() -> Iterator[str]:
    """A folder with the embedded model, just below the root's folder of temporary files.

    The official SDK takes a name with two slashes for `org/model/variant` where it looks for a tokenizer.
    """
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tiny-") as folder:
        for file in shipped_path().iterdir():
            if file.is_file():
                (Path(folder) / file.name).symlink_to(file)
        assert folder.count("/") == 2
        yield folder


@pytest.fixture(scope="module")
def server(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the embedded model, by the folder's path and by a name that the official tables know."""
    server = LiveServer(tmp_path_factory.mktemp("cookbook"), model_folder, BASE_OF_THE_TABLES)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder in which the hub names that the flat recipes hold are folders: the model's and the data set's."""
    (tmp_path / BASE_OF_THE_TABLES).parent.mkdir(parents=True)
    (tmp_path / BASE_OF_THE_TABLES).symlink_to(shipped_path())
    write_lines(tmp_path / "HuggingFaceH4/no_robots/train.jsonl", ROWS)
    write_lines(tmp_path / "HuggingFaceH4/no_robots/test.jsonl", HELD_OUT)
    return tmp_path


class Ours:
    """Our SDK and our renderer on the same conversations."""

    def __init__(self, server: LiveServer, model: str) -> None:
        self.service = tinsmith.ServiceClient(base_url=server.url, api_key=server.key)
        self.model = model
        self.renderer = get_renderer("role_colon", get_tokenizer(model))

    def datums(self, rows: Sequence[dict[str, Any]]) -> list[tinsmith.Datum]:
        """Return the datums of rows; the weights of each sum to 1, as the official trainer has them."""
        found = []
        for row in rows:
            example = self.renderer.build_supervised_example(row["messages"])
            weights = np.asarray(example.weights) / np.sum(example.weights)
            found.append(datum_from_tokens_weights(example.tokens, weights.tolist()))
        return found

    @staticmethod
    def nll(output: tinsmith.ForwardBackwardOutput, data: Sequence[tinsmith.Datum]) -> float:
        """Return the mean NLL of a pass."""
        logprobs = [found["logprobs"] for found in output.loss_fn_outputs]
        return compute_mean_nll(logprobs, [datum.loss_fn_inputs["weights"] for datum in data])

    def accuracy(self, sampler_path: str, rows: Sequence[dict[str, Any]]) -> float:
        """Return the share of questions that a saved sampler answers greedily as the row does."""
        sampler = self.service.create_sampling_client(sampler_path)
        params = tinsmith.SamplingParams(max_tokens=24, temperature=0, stop=self.renderer.get_stop_sequences())
        futures = [
            sampler.sample(self.renderer.build_generation_prompt(row["messages"][:1]), 1, params) for row in rows
        ]
        answers = [self.renderer.parse_response(f.result().sequences[0].tokens).message["content"] for f in futures]
        return sum(a == row["messages"][1]["content"] for a, row in zip(answers, rows, strict=True)) / len(rows)


def steps_of(run: Path) -> list[int]:
    """Return the step of each row of metrics."""
    return [row["step"] for row in read_lines(run / "metrics.jsonl")]


@pytest.mark.slow
def test_a_conversation_file_trains_to_the_end_under_the_folder_s_own_name(
    server: LiveServer, model_folder: str, tmp_path: Path
) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", ROWS[:200])
    run = tmp_path / "run"
    plan = {"steps": 8, "batch_size": 16, "held_out": 24, "rank": 16}
    named = {"model_name": model_folder, "rows": str(rows), "log_path": str(run), "base_url": server.url}
    Recipe(server, tmp_path, str(HERE / "cookbook_sft.py"), json.dumps(plan | named)).run()

    metrics = read_lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(plan["steps"]))
    assert metrics[-1]["train_mean_nll"] < metrics[0]["train_mean_nll"] / 2
    evaluated = [row for row in metrics if "test/nll" in row]
    assert [row["step"] for row in evaluated] == [0, plan["steps"] - 1]
    assert all(row["rank"] == plan["rank"] and 0 <= row["accuracy"] <= 1 for row in evaluated)
    assert evaluated[-1]["test/nll"] < evaluated[0]["test/nll"] / 2

    ours = Ours(server, model_folder)
    shuffled = datasets.Dataset.from_list(ROWS[:200]).shuffle(seed=0)
    held_out, first = shuffled.take(plan["held_out"]), shuffled.skip(plan["held_out"]).shuffle(seed=0)
    fresh = ours.service.create_lora_training_client(model_folder, rank=plan["rank"])
    for data, found in (
        (ours.datums(first.to_list()[: plan["batch_size"]]), metrics[0]["train_mean_nll"]),
        (ours.datums(held_out.to_list()), metrics[0]["test/nll"]),
    ):
        assert ours.nll(fresh.forward(data, "cross_entropy").result(), data) == pytest.approx(found, rel=1e-5)

    saved = read_lines(run / "checkpoints.jsonl")
    assert [row["name"] for row in saved] == ["000003", "000006", "final"]
    resumed = ours.service.create_training_client_from_state(saved[-1]["state_path"])
    data = ours.datums(held_out.to_list())
    assert ours.nll(resumed.forward(data, "cross_entropy").result(), data) < metrics[0]["test/nll"] / 2
    assert 0 <= ours.accuracy(saved[-1]["sampler_path"], held_out.to_list()) <= 1
    with server.service() as service:
        training = service.create_training_client_from_state(saved[-1]["state_path"]).result(timeout=60)
        assert training.get_tokenizer().encode("a") == get_tokenizer(model_folder).encode("a")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chat_sl_learns_a_conversation_file(server: LiveServer, model_folder: str, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", ROWS)
    run = tmp_path / "run"
    options = ("batch_size=32", "learning_rate=4e-3", "lora_rank=16", "num_epochs=2", "rolling_save_every=7")
    named = (f"model_name={model_folder}", "renderer_name=role_colon", f"base_url={server.url}")
    Recipe(
        server,
        tmp_path,
        *("-m", "tinker_cookbook.recipes.chat_sl.train", *named, f"dataset={rows}", f"log_path={run}", *options),
    ).run()
    metrics = read_lines(run / "metrics.jsonl")
    assert steps_of(run) == list(range(40))
    assert metrics[-1]["train_mean_nll"] < 0.1 < 1 < metrics[0]["train_mean_nll"]
    saved = read_lines(run / "checkpoints.jsonl")
    assert saved[-1]["name"] == "final"
    assert Ours(server, model_folder).accuracy(saved[-1]["sampler_path"], HELD_OUT) > 0.8
    # Rolling states are deleted as newer ones come, and the last one at the end.
    for row in saved:
        folder_is_there = True
        try:
            server.checkpoint_folder(row["state_path"])
        except FileNotFoundError:
            folder_is_there = False
        assert folder_is_there == (not row.get("rolling")), row


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sl_basic_takes_a_file_of_one_s_own_and_carries_on_after_a_kill(server: LiveServer, desk: Path) -> None:
    rows, run = write_lines(desk / "rows.jsonl", ROWS), desk / "run"
    recipe = Recipe(
        server,
        desk,
        *("-m", "tinker_cookbook.recipes.sl_basic", f"model_name={BASE_OF_THE_TABLES}", f"base_url={server.url}"),
        *(f"log_path={run}", "learning_rate=4e-3", "lora_rank=16", "num_epochs=2", "eval_every=5", "save_every=5"),
        "dataset_builder=tinker_cookbook.supervised.data:FromConversationFileBuilder",
        *(f"dataset_builder.file_path={rows}", "dataset_builder.test_size=128"),
        f"dataset_builder.common_config.model_name_for_tokenizer={BASE_OF_THE_TABLES}",
        *("dataset_builder.common_config.renderer_name=role_colon", "dataset_builder.common_config.max_length=512"),
        "dataset_builder.common_config.batch_size=32",
    )
    recipe.run_until(lambda: len(steps_of(run)) > 17)
    recipe.run(said="resume\n")
    assert steps_of(run) == list(range(32))
    metrics = read_lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics if "test/nll" in row] == list(range(0, 32, 5))
    assert metrics[30]["test/nll"] < 0.1
    last = read_lines(run / "checkpoints.jsonl")[-1]
    assert last["name"] == "final"
    assert Ours(server, BASE_OF_THE_TABLES).accuracy(last["sampler_path"], HELD_OUT) > 0.8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.row(110)
def test_sl_loop_resumes_exactly_and_our_sdk_trains_on_with_the_same_numbers(server: LiveServer, desk: Path) -> None:
    run = desk / "run"
    recipe = Recipe(
        server,
        desk,
        *("-m", "tinker_cookbook.recipes.sl_loop", f"model_name={BASE_OF_THE_TABLES}", f"base_url={server.url}"),
        *(f"log_path={run}", "batch_size=32", "learning_rate=4e-3", "lora_rank=16", "save_every=6"),
    )
    recipe.run_until(lambda: len(steps_of(run)) > 10)
    before = read_lines(run / "metrics.jsonl")
    recipe.run()
    after = read_lines(run / "metrics.jsonl")[len(before) :]
    # The flat loop leaves the rows that it does again: they must be the same.
    assert [row["step"] for row in after] == list(range(6, 20))
    again = {row["step"]: row for row in after}
    redone = [row for row in before if row["step"] >= 6]
    assert len(redone) >= 5
    for row in redone:
        assert again[row["step"]]["train_mean_nll"] == pytest.approx(row["train_mean_nll"], rel=1e-5)
        assert again[row["step"]]["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)

    ours = Ours(server, BASE_OF_THE_TABLES)
    saved = {row["name"]: row for row in read_lines(run / "checkpoints.jsonl")}
    training = ours.service.create_training_client_from_state_with_optimizer(saved["000006"]["state_path"])
    shuffled = datasets.Dataset.from_list(ROWS).shuffle(seed=0).to_list()
    for step in range(6, 20):
        data = ours.datums(shuffled[step * 32 : (step + 1) * 32])
        forward = training.forward_backward(data, "cross_entropy")
        rate = 4e-3 * (1 - step / 20)
        training.optim_step(tinsmith.AdamParams(learning_rate=rate, beta1=0.9, beta2=0.95, eps=1e-8))
        assert ours.nll(forward.result(), data) == pytest.approx(again[step]["train_mean_nll"], rel=1e-4)
    final = saved["final"]["sampler_path"]
    assert ours.accuracy(final, HELD_OUT) > 0.5
