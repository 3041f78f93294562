"""Runs that are taken up again: after kill -9 at any batch, after changes of settings, with checkpoints gone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import tinsmith
from tests.cookbook.runs import toy_recipe
from tests.cookbook.runs.toy_recipe import Config
from tests.support.live_server import LLAMA, LiveServer
from tinsmith.cookbook.runs import Run, SavedFinal
from tinsmith.types.errors import RequestErrorCategory, RequestFailedError, UserError

STEPS = 9
SETTINGS: dict[str, Any] = {"max_steps": STEPS, "batch_size": 2, "lora_rank": 4, "eval_every": 3, "save_every": 2}


def config(folder: Path, **settings: Any) -> Config:
    return Config(log_path=str(folder), **(SETTINGS | settings))


def read(folder: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows without what the clock says."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read(folder, "metrics.jsonl")]


def states(folder: Path) -> list[tuple[int, str]]:
    path = folder / "checkpoints.jsonl"
    return [(row["step"], row["kind"]) for row in read(folder, path.name) if "kind" in row] if path.exists() else []


def adapter(path: str, folder: Path) -> dict[str, bytes]:
    """Return the tensors bit by bit; the file's header has its notes in any order."""
    tinsmith.RestClient().download_checkpoint(path, folder).result()
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}


def answer(path: str) -> list[int]:
    sampler = tinsmith.ServiceClient().create_sampling_client(model_path=path)
    params = tinsmith.SamplingParams(max_tokens=8, temperature=1.0, seed=7)
    return sampler.sample(tinsmith.ModelInput.from_ints([30, 40, 50]), 1, params).result().sequences[0].tokens


def final_of(folder: Path) -> SavedFinal:
    row = read(folder, "checkpoints.jsonl")[-1]
    assert row["kind"] == "final"
    return SavedFinal(row["state_path"], row["sampler_path"])


def start(folder: Path, **settings: Any) -> subprocess.Popen[str]:
    arguments = [f"{name}={value}" for name, value in (SETTINGS | {"log_path": folder} | settings).items()]
    command = [sys.executable, "-m", toy_recipe.__name__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.row(60, 109, 110, 117)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_a_run_that_is_killed_at_a_random_batch_ends_as_if_it_never_was(
    tmp_path: Path, seed: int, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_BASE_URL", live_server.url)
    monkeypatch.setenv("TINSMITH_API_KEY", live_server.key)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    toy_recipe.main(config(whole, model_name=LLAMA))
    kill_at = random.Random(seed).randrange(1, STEPS)
    process = start(cut, model_name=LLAMA, seconds=0.05, rolling_save_every=3)
    deadline = time.monotonic() + 60
    while not (cut / "metrics.jsonl").exists() or len((cut / "metrics.jsonl").read_text().splitlines()) < kill_at:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = (cut / "metrics.jsonl").read_text().count("\n")  # it may have come a little further
    for file in ("metrics.jsonl", "checkpoints.jsonl", "starts.jsonl"):
        with (cut / file).open("a") as out:
            out.write('{"step": 5, "tra')  # what a kill in the midst of a line leaves
    again = start(cut, model_name=LLAMA, rolling_save_every=3)
    told, warned = again.communicate(timeout=120)
    assert again.returncode == 0, warned
    assert metrics(cut) == metrics(whole)
    assert [row["step"] for row in metrics(cut)] == list(range(STEPS + 1))
    ends = [final_of(folder) for folder in (whole, cut)]
    assert adapter(ends[0].sampler_path, tmp_path / "a") == adapter(ends[1].sampler_path, tmp_path / "b")
    assert answer(ends[0].sampler_path) == answer(ends[1].sampler_path)
    first_steps = [row["first_step"] for row in read(cut, "starts.jsonl")]
    assert first_steps[0] == 0
    assert done - 3 <= first_steps[1] <= done
    assert ("goes on" in told) == (first_steps[1] > 0)


def test_a_run_made_longer_goes_on_from_its_final_state_and_its_old_end_makes_room(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path, max_steps=4))
    first = metrics(tmp_path)
    assert [row["step"] for row in first] == [0, 1, 2, 3, 4]
    assert "train/nll" not in first[4]
    assert toy_recipe.main(config(tmp_path, max_steps=4)) is None
    assert metrics(tmp_path) == first
    toy_recipe.main(config(tmp_path, max_steps=6))
    assert metrics(tmp_path)[:4] == first[:4]
    assert [row["step"] for row in metrics(tmp_path)] == list(range(7))
    assert "train/nll" in metrics(tmp_path)[4]
    with pytest.raises(UserError, match=r"max_steps: got 5, expected at least 6, which the run in .* has done"):
        toy_recipe.main(config(tmp_path, max_steps=5))


def test_other_settings_are_refused_by_name_with_both_values(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path, max_steps=2))
    with pytest.raises(
        UserError,
        match=r"batch_size: got 4, expected 2; lora_rank: got 8, expected 4, as the run in .* has it, or another log_",
    ):
        toy_recipe.main(config(tmp_path, lora_rank=8, batch_size=4))
    with pytest.raises(UserError, match=r"log_path: got .*, expected another folder: this one holds a run of toy"):
        Run(config(tmp_path), "another")
    assert json.loads((tmp_path / "config.json").read_text())["lora_rank"] == 4
    free = {
        "max_steps": 3,
        "eval_every": 1,
        "save_every": 1,
        "rolling_save_every": 2,
        "wandb_name": "x",
        "seconds": 0.1,
    }
    toy_recipe.main(config(tmp_path, ttl_seconds=4000, tensorboard=True, **free))
    assert json.loads((tmp_path / "config.json").read_text())["eval_every"] == 1


def test_settings_may_be_corrected_while_nothing_is_saved(tmp_path: Path) -> None:
    with Run(config(tmp_path), "toy") as run:
        run.log_metrics(0, {"train/nll": 1.0})
    with Run(config(tmp_path, lora_rank=8), "toy") as run:
        assert run.first_step == 0
        assert read(tmp_path, "metrics.jsonl") == []
    assert json.loads((tmp_path / "config.json").read_text())["lora_rank"] == 8


def test_a_state_that_the_service_has_lost_gives_way_to_the_next_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    toy_recipe.main(config(whole))
    toy_recipe.main(config(cut))
    rest = tinsmith.RestClient()
    by_step = {row["step"]: row["state_path"] for row in read(cut, "checkpoints.jsonl")}
    for step in (STEPS, 8, 6):
        rest.delete_checkpoint_from_tinker_path(by_step[step]).result()
    with Run(config(cut), "toy") as run:
        assert run.last_state == (4, by_step[4])
        assert [row["step"] for row in metrics(cut)] == [0, 1, 2, 3]
    assert sum("the service does not have it any more" in record.message for record in caplog.records) == 3
    toy_recipe.main(config(cut))
    assert metrics(cut) == metrics(whole)
    for row in read(cut, "checkpoints.jsonl"):
        if row["step"] not in (STEPS, 8, 6) or row["state_path"] not in by_step.values():
            rest.delete_checkpoint_from_tinker_path(row["state_path"]).result()
    before = (cut / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"log_path: got .* expected a run of which the service still has a state"):
        Run(config(cut), "toy")
    assert (cut / "metrics.jsonl").read_bytes() == before


def test_a_process_that_dies_between_a_save_and_its_record_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    run = Run(config(tmp_path), "toy")
    client = run.training_client()
    run.log_metrics(0, {"train/nll": 1.0})
    run.log_metrics(1, {"train/nll": 1.0})
    run.save_due(2, client)
    client.save_state("000002", overwrite=True).result()  # it is there, under the name that the run would take
    run._exits.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert states(tmp_path) == []
    toy_recipe.main(config(tmp_path))
    assert states(tmp_path) == [(2, "periodic"), (4, "periodic"), (6, "periodic"), (8, "periodic"), (STEPS, "final")]


@pytest.mark.row(109)
def test_of_rolling_states_the_newest_is_kept_and_none_at_the_end(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path, save_every=4, rolling_save_every=1, ttl_seconds=5000))
    rows = read(tmp_path, "checkpoints.jsonl")
    kinds = [(row["step"], row["kind"]) for row in rows if "kind" in row]
    assert kinds == [(s, "periodic" if s % 4 == 0 else "rolling") for s in range(1, STEPS)] + [(STEPS, "final")]
    run_id = rows[0]["state_path"].split("/")[2]
    there = {c.tinker_path: c.expires_at for c in tinsmith.RestClient().list_checkpoints(run_id).result().checkpoints}
    kept = [row for row in rows if row.get("kind") in ("periodic", "final")]
    assert set(there) == {row[kind] for row in kept for kind in ("state_path", "sampler_path")}
    assert [there[row["state_path"]] is None for row in kept] == [False, False, True]
    # A rolling state goes only once a newer one is on record.
    for number, row in enumerate(rows):
        if "deleted" in row:
            assert "deleted" not in rows[number - 1]
            assert rows[number - 2].get("state_path", row["deleted"]) == row["deleted"] or number > 1


def test_a_rolling_state_that_cannot_be_deleted_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: object, tinker_path: str) -> None:
        raise tinsmith.InternalServerError("disk on fire", status_code=500)

    monkeypatch.setattr(tinsmith.RestClient, "delete_checkpoint_from_tinker_path", refuse)
    assert toy_recipe.main(config(tmp_path, max_steps=3, rolling_save_every=1, save_every=0)) is not None
    assert [record.message for record in caplog.records if "could not be deleted (disk on fire)" in record.message]
    assert states(tmp_path) == [(1, "rolling"), (2, "rolling"), (3, "final")]


def test_a_save_that_fails_is_a_warning_but_for_the_final_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed:
        def result(self) -> None:
            raise RequestFailedError("no space left", category=RequestErrorCategory.SERVER)

    with Run(config(tmp_path, save_every=1), "toy") as run:
        client = run.training_client()
        with monkeypatch.context() as patch:
            patch.setattr(client, "save_state", lambda *_, **__: Failed())
            run.save_due(1, client)
        run.log_metrics(0, {"train/nll": 1.0})
        run.settle(1)
        assert "checkpoint 000001: not saved (no space left); the run goes on" in caplog.text
        assert states(tmp_path) == []
        saved = run.save_final(1, client)
    assert states(tmp_path) == [(1, "final")]
    assert answer(saved.sampler_path)


def test_a_lifetime_that_the_service_refuses_ends_the_run_at_its_first_save(tmp_path: Path) -> None:
    with pytest.raises(RequestFailedError, match=r"^ttl_seconds: got 1, expected 3600 to"):
        toy_recipe.main(config(tmp_path, max_steps=6, save_every=2, ttl_seconds=1))
    assert len(metrics(tmp_path)) == 2  # not a run of days without a checkpoint
    assert toy_recipe.main(config(tmp_path, max_steps=6, save_every=2, ttl_seconds=3600)) is not None


@pytest.mark.row(114)
def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    first = toy_recipe.main(config(tmp_path / "first", max_steps=3))
    assert first is not None
    toy_recipe.main(config(tmp_path / "second", max_steps=1, load_checkpoint_path=first.state_path))
    last = metrics(tmp_path / "first")[-1]["test/nll"]
    assert metrics(tmp_path / "second")[0]["test/nll"] == pytest.approx(last, rel=1e-6)
    with pytest.raises(UserError, match=r"lora_rank: got 8, expected 4, the rank of load_checkpoint_path"):
        toy_recipe.main(config(tmp_path / "third", lora_rank=8, load_checkpoint_path=first.state_path))


def test_rows_come_in_order_and_before_the_checkpoints_that_count_on_them(tmp_path: Path) -> None:
    with Run(config(tmp_path), "toy") as run:
        run.log_metrics(0, {"train/nll": 1.0})
        with pytest.raises(UserError, match="step: got 0, expected at least 1: one row for a step, in order"):
            run.log_metrics(0, {"train/nll": 2.0})
        with pytest.raises(UserError, match="settle: got 2, expected at most 1: rows are logged before"):
            run.settle(2)
    assert read(tmp_path, "metrics.jsonl") == [{"step": 0, "train/nll": 1.0}]


@pytest.mark.row(110)
def test_a_run_that_is_interrupted_says_how_to_carry_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(error: BaseException, steps: int) -> None:
        with Run(config(tmp_path), "toy") as run:
            client = run.training_client()
            for step in run.steps(STEPS):
                run.log_metrics(step, {"train/nll": 1.0})
                run.save_due(step + 1, client)
                run.settle(step + 1)
                if step + 1 == steps:
                    raise error

    stopped = KeyboardInterrupt()
    for error, steps in ((ValueError("an evaluator failed"), 1), (stopped, 1), (ValueError("it failed again"), 3)):
        with pytest.raises(type(error)):
            stop(error, steps)
    told = [record.message for record in caplog.records]
    same = f"the same command with log_path={tmp_path}"
    assert told == [
        f"the run stopped after 1 steps; {same} begins anew: no checkpoint is recorded yet",
        f"the run stopped after 3 steps; {same} carries on after step 2",
    ]
    # Raised in the midst of a step, not by a signal that waits for its end: nothing is saved that may be half done.
    assert stopped.__notes__ == [f"stopped after 1 step, none of them saved; to go on: {same}"]


def test_a_state_that_is_saved_at_an_error_is_carried_on_from_and_then_replaced(tmp_path: Path) -> None:
    for done in (1, 2):
        with Run(config(tmp_path), "toy") as run:
            client = run.training_client()
            assert run.first_step == done - 1
            run.save_now(done - 1, client)  # what is on record is not saved again
            run.log_metrics(done - 1, {"train/nll": 1.0})
            run.save_due(done, client)
            run.save_now(done, client)
    assert states(tmp_path) == [(1, "rolling"), (2, "periodic")]
    rows = read(tmp_path, "checkpoints.jsonl")
    assert rows[2] == {"deleted": rows[0]["state_path"]}
