"""Runs that are killed and started again by the same command, against runs that nobody disturbed."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from random import Random

import pytest
from safetensors.numpy import load_file

import tinsmith
from tests.support.live_server import LLAMA, LiveServer
from tests.support.recipe_runs import RecipeRun, assert_same_adapter, drawn, saved_adapter
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.recipes import sl_basic
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.supervised.config import SupervisedConfig


def write_data(folder: Path, rows: int = 44) -> Path:
    """Write words of pig latin and their category; 44 rows are five batches of 8 and a rest."""
    lines = [json.dumps({**row, "category": "words"}) for row in pig_latin.rows(pig_latin.draw_words("train", rows))]
    path = folder / "words.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def pair(recipe: str, folder: Path, *settings: str, **environment: str) -> tuple[RecipeRun, RecipeRun]:
    """Return a run that nobody will disturb, and one of the same settings that will be killed."""
    whole = RecipeRun(recipe, folder / "whole", folder / "home", settings, environment)
    killed = RecipeRun(recipe, folder / "killed", folder / "home", settings, environment)
    return whole, killed


def held_out(recipe: str, rows: int) -> list[str]:
    """Return the setting that keeps rows back, of a recipe that has one."""
    return [] if recipe == "sl_loop" else [f"held_out={rows}"]


def assert_equal_runs(given: RecipeRun, expected: RecipeRun, data_dir: Path | None = None) -> None:
    """Assert that two runs have the same metrics, final adapter and sampled outputs."""
    assert given.metrics() == expected.metrics()
    paths = [run.final()["sampler_path"] for run in (given, expected)]
    assert_same_adapter(*(saved_adapter(path, data_dir or given.home) for path in paths))
    answers = drawn(paths, given.home, given.environment)
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.row(60, 110)
def test_a_killed_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    settings = (
        f"data={write_data(tmp_path)}", "batch_size=8", "lora_rank=8", "max_steps=12", "held_out=3", "eval_every=3",
        "save_every=4", "rolling_save_every=3", "lr_schedule=cosine", "warmup_steps=2",
    )  # fmt: skip
    whole, killed = pair("sl_basic", tmp_path, *settings)
    sl_basic.main(parse(SupervisedConfig, [f"log_path={whole.log_path}", *settings]))
    assert killed.kill_after(8, Random(0))
    assert len(killed.lines()) < 13
    assert "goes on" in killed.finish()
    assert killed.metrics() == whole.metrics()
    expected = tinsmith.RestClient().download_checkpoint(whole.final()["sampler_path"], tmp_path / "adapter").result()
    assert_same_adapter(
        saved_adapter(killed.final()["sampler_path"], killed.home), load_file(expected / "adapter_model.safetensors")
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(60, 110)
@pytest.mark.parametrize("recipe", ["sl_loop", "sl_basic"])
def test_a_run_that_is_killed_again_and_again_equals_an_undisturbed_one(recipe: str, tmp_path: Path) -> None:
    settings = (
        "batch_size=16", "max_steps=30", "eval_every=5", "save_every=10", "rolling_save_every=4",
        "learning_rate=4e-3", "tensorboard=true", *held_out(recipe, 20),
    )  # fmt: skip
    whole, killed = pair(recipe, tmp_path, *settings)
    whole.finish()
    random = Random(recipe)
    for _ in range(5):
        killed.kill_after(min(29, len(killed.lines()) + random.randint(1, 9)), random)
    killed.finish()
    assert_equal_runs(killed, whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(60, 110)
@pytest.mark.parametrize("recipe", ["sl_loop", "sl_basic"])
def test_the_same_against_a_service_at_a_url(recipe: str, tmp_path: Path, live_server: LiveServer) -> None:
    settings = (
        f"base_url={live_server.url}", f"model_name={LLAMA}", f"data={write_data(tmp_path)}", "batch_size=8",
        "lora_rank=8", "max_steps=24", "eval_every=4", "save_every=6", "rolling_save_every=3",
        "learning_rate=1e-2", *held_out(recipe, 3),
    )  # fmt: skip
    whole, killed = pair(
        recipe, tmp_path, *settings, TINSMITH_API_KEY=live_server.key, TINSMITH_BASE_URL=live_server.url
    )
    whole.finish()
    random = Random(recipe)
    for _ in range(3):
        killed.kill_after(min(23, len(killed.lines()) + random.randint(1, 9)), random)
    killed.finish()
    assert_equal_runs(killed, whole, live_server.data_dir)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(110, 111)
def test_a_run_of_weights_and_biases_goes_on_as_the_same_run(tmp_path: Path) -> None:
    settings = (
        f"data={write_data(tmp_path)}", "batch_size=8", "lora_rank=8", "max_steps=12", "save_every=3",
        "wandb_project=tests",
    )  # fmt: skip
    whole, killed = pair("sl_basic", tmp_path, *settings, WANDB_MODE="offline")
    whole.finish()
    killed.kill_after(5, Random(1))
    killed.finish()
    assert_equal_runs(killed, whole)
    folders = sorted((tmp_path / "killed").rglob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(110, 111)
def test_a_full_disk_stops_no_run_and_loses_no_row(tmp_path: Path, live_server: LiveServer) -> None:
    settings = (
        f"base_url={live_server.url}", f"model_name={LLAMA}", f"data={write_data(tmp_path)}", "batch_size=8",
        "lora_rank=8", "max_steps=60", "held_out=3", "eval_every=10", "save_every=5", "learning_rate=1e-2",
    )  # fmt: skip
    whole, full = pair("sl_basic", tmp_path, *settings, TINSMITH_API_KEY=live_server.key, PYTHONUNBUFFERED="1")
    whole.finish()
    process = full.start()
    assert process.stdout is not None
    while len(full.lines()) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    # Writing beyond so many bytes of any file fails as on a full disk, until there is room again.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    told = ""
    while "step 30/" not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    assert "metrics.jsonl: cannot be written" in told
    assert len(full.lines()) < 30
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told + rest
    assert told.count("cannot be written") - told.count("this page cannot be written") == 1
    assert "no row is missing" in rest
    assert full.metrics() == whole.metrics()
    steps = [[row["step"] for row in run.checkpoints()] for run in (full, whole)]
    assert steps[0] == steps[1] == [*range(5, 60, 5), 60]
