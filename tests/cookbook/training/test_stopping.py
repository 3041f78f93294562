"""Ctrl-C and SIGTERM at any moment of a run: what is done is saved, and the run comes to the same end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tinsmith
from tests.cookbook.runs import toy_recipe
from tests.cookbook.training.test_loop import rows_of, settings
from tinsmith.cookbook.runs import Run, RunConfig, run_recipe
from tinsmith.cookbook.runs.interrupts import interruptible
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import Evaluation, LearningRates, SubmittedStep, run_trainer, set_up_model
from tinsmith.types.errors import TinsmithError


@dataclass
class Submitted(SubmittedStep):
    """Two optimizer steps on one batch."""

    passes: list[tuple[Any, Any]]

    def metrics(self) -> Mapping[str, float]:
        steps = [(optim.result().metrics or {})["adam_step"] for _, optim in self.passes]
        return {"train/nll": toy_recipe.loss(self.passes[-1][0].result()), "optim/adam_step": steps[-1]}


class Steps:
    """A trainer whose metrics depend on every step before."""

    def start(self, client: tinsmith.TrainingClient) -> None:
        self.client = client

    def submit(self, step: int) -> Submitted:
        data, adam = toy_recipe.batch(step, 2), tinsmith.AdamParams(learning_rate=1e-2)
        return Submitted(
            [(self.client.forward_backward(data, "cross_entropy"), self.client.optim_step(adam)) for _ in range(2)]
        )


def train(folder: Path) -> None:
    config = settings(folder)
    with Run(config, "steps") as run:
        rates = LearningRates(config, config.max_steps or 0)
        evaluation = Evaluation(config, run, set_up_model(run, config), [lambda context: {"eval/step": context.step}])
        run_trainer(Steps(), run, rates, evaluation, {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return rows_of(folder)


def at(call: int, number: int, original: Callable[..., Any], *, before: bool = True) -> Callable[..., Any]:
    """Return a method that raises a signal at its call number `call`."""
    calls = 0

    def method(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and before:
            signal.raise_signal(number)
        found = original(self, *arguments)
        if calls == call and not before:
            signal.raise_signal(number)
        return found

    return method


# Where the signal comes, and how many steps are saved then. Steps are submitted one ahead of the one that is logged.
PLACES = {
    "as a step is submitted": (Steps, "submit", 3, True, 3),
    "after it is submitted": (Steps, "submit", 3, False, 3),
    "while its results are waited for": (Submitted, "metrics", 1, True, 2),
    "as its row is logged": (Run, "log_metrics", 3, False, 4),
    "before an evaluation": (Submitted, "metrics", 2, True, 2),
    "in an evaluation": (Evaluation, "begin", 2, True, 2),
    "in the final evaluation": (Evaluation, "measure", 1, True, 4),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_the_steps_that_are_done_are_saved_and_the_run_comes_to_the_same_end(
    place: str, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = signal.SIGINT
    owner, name, call, before, saved = PLACES[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at(call, number, getattr(owner, name), before=before))
        with pytest.raises(KeyboardInterrupt) as stopped:
            train(tmp_path)
    assert read_rows(tmp_path / "checkpoints.jsonl")[-1]["step"] == saved
    assert stopped.value.__notes__ == [
        f"stopped after {saved} steps, all saved; to go on: the same command with log_path={tmp_path}"
    ]
    assert signal.getsignal(number) is signal.default_int_handler
    train(tmp_path)
    for given, expected in zip(rows_of(tmp_path), whole, strict=True):
        assert given == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_wait_that_has_changed_no_weights_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Steps.submit

    def waits(self: Steps, step: int) -> Submitted:
        if step == 2:
            with interruptible():
                signal.raise_signal(signal.SIGINT)
                pytest.fail("it went on waiting")
        return submit(self, step)

    monkeypatch.setattr(Steps, "submit", waits)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert read_rows(tmp_path / "checkpoints.jsonl")[-1]["step"] == 2


def test_whoever_asks_twice_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(self: Submitted) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        assert "again (Ctrl-C) stops at once" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on waiting")

    monkeypatch.setattr(Submitted, "metrics", twice)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "new" / "run")
    # Nothing was logged, so there is nothing to go on with, and no folder.
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_plain_loop_is_stopped_between_two_steps(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = toy_recipe.batch

    def stopped(step: int, size: int) -> Any:
        if step == 2:
            signal.raise_signal(number)
        return batch(step, size)

    command = [f"log_path={tmp_path}", "batch_size=2", "eval_every=0"]
    with monkeypatch.context() as patch:
        patch.setattr(toy_recipe, "batch", stopped)
        with pytest.raises(SystemExit) as ended:
            run_recipe(toy_recipe.main, toy_recipe.Config, "toy", command)
    assert ended.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"toy: stopped after 3 steps, all saved; to go on: the same command with log_path={tmp_path}"
    run_recipe(toy_recipe.main, toy_recipe.Config, "toy", command)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [*range(7)]


@pytest.mark.parametrize("given", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(
    "error", [TinsmithError("no such model"), KeyboardInterrupt(), OSError("no room")], ids=lambda e: type(e).__name__
)
def test_a_start_that_comes_to_nothing_leaves_no_folder(
    error: BaseException, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(log_path="a/b" if given else None, tensorboard=True)

    def start() -> None:
        with Run(config, "toy") as run:
            run.hold("data", {"rows": 3})
            run.announce(100, 1e-3, {"rows": 3})
            raise error

    with pytest.raises(type(error)):
        start()
    assert not list(tmp_path.iterdir())


def test_what_somebody_else_put_into_the_folder_stays(tmp_path: Path) -> None:
    def start(answers: bool) -> None:
        with Run(RunConfig(log_path=str(tmp_path)), "toy") as run:
            if answers:
                (run.path / "teacher.jsonl").write_text("dear to come by")
            raise TinsmithError("no such model")

    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(TinsmithError):
        start(answers=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(TinsmithError):
        start(answers=True)
    assert {"mine.txt", "teacher.jsonl", "config.json"} <= {path.name for path in tmp_path.iterdir()}
