"""The command line of a recipe: every form of a setting, help for a newcomer, and mistakes answered in one line."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Literal

import chz
import pytest

from tinsmith.cookbook.runs import RunConfig, run_recipe
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.interrupts import hold
from tinsmith.types.errors import RequestFailedError, UserError


class Order(StrEnum):
    FIRST_ROWS = "first_rows"
    SHUFFLED = "shuffled"


@chz.chz
class Config(RunConfig):
    epochs: int = chz.field(default=1, doc="how often the data are gone through")
    lr_schedule: Literal["constant", "linear", "cosine"] = chz.field(default="linear", doc="how the rate falls")
    order: Order = chz.field(default=Order.SHUFFLED, doc="of the rows")
    betas: tuple[float, ...] = chz.field(default=(0.9, 0.95), doc="of Adam")


def end_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Run a recipe that must end at the door; return its exit code and the one line that it says."""
    with pytest.raises(SystemExit) as exit_info:
        run_recipe(lambda config: pytest.fail(f"ran with {config}"), Config, "trial", argv)
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert said.count("\n") == 1
    return exit_info.value.code, said.strip()


@pytest.mark.row(103, 104)
@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["batch_size=64"], "batch_size", 64),
        (["--batch_size=64"], "batch_size", 64),
        (["--batch-size", "64"], "batch_size", 64),
        (["learning_rate=5e-5"], "learning_rate", 5e-5),
        (["learning_rate=None"], "learning_rate", None),
        (["lr=1"], "learning_rate", 1.0),
        (["--rank", "8"], "lora_rank", 8),
        (["n_epochs=3"], "epochs", 3),
        (["num_epochs=3"], "epochs", 3),
        (["model_name=a=b"], "model_name", "a=b"),
        (["--tensorboard"], "tensorboard", True),
        (["--tensorboard", "--seed", "-3"], "seed", -3),
        (["tensorboard=true"], "tensorboard", True),
        (["lr_schedule=cosine"], "lr_schedule", "cosine"),
        (["order=first_rows"], "order", Order.FIRST_ROWS),
        (["betas=0.8,0.9"], "betas", (0.8, 0.9)),
        (["wandb_project=a project"], "wandb_project", "a project"),
    ],
)
def test_every_field_can_be_set(argv: list[str], field: str, value: object) -> None:
    assert getattr(parse(Config, argv), field) == value


@pytest.mark.row(104)
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["batch_size=abc"], "batch_size: got 'abc', expected a whole number"),
        (["batch_size=1.5"], "batch_size: got '1.5', expected a whole number"),
        (["batch_size="], "batch_size: got '', expected a whole number"),
        (["--batch_size"], "batch_size: got '', expected a whole number"),
        (["batch_size=0"], "batch_size: got 0, expected at least 1"),
        (["learning_rate=fast"], "learning_rate: got 'fast', expected a number or None"),
        (["learning_rate=nan"], "learning_rate: got nan, expected a finite number above 0"),
        (["lora_rank=300"], "lora_rank: got 300, expected 1 to 256"),
        (["tensorboard=yes"], "tensorboard: got 'yes', expected true or false"),
        (
            ["lr_schedule=lineer"],
            "lr_schedule: got 'lineer', expected one of constant, linear, cosine (did you mean linear?)",
        ),
        (["order=shufled"], "order: got 'shufled', expected one of first_rows, shuffled (did you mean shuffled?)"),
        (["betas=0.8,x"], "betas: got '0.8,x', expected tuple[float, ...]"),
        (
            ["learing_rate=1"],
            "command line: got 'learing_rate', expected the name of a setting (did you mean learning_rate?); "
            "--help lists them",
        ),
        (["zzz=1"], "command line: got 'zzz', expected the name of a setting; --help lists them"),
        (["train"], "command line: got 'train', expected name=value, e.g. batch_size=64; --help lists the names"),
        (["=3"], "command line: got '=3', expected name=value, e.g. batch_size=64; --help lists the names"),
        (["lr=1", "learning_rate=2"], "learning_rate: got '1 and 2', expected one value"),
        (["seed=1", "batch_size=x", "rank=2"], "batch_size: got 'x', expected a whole number"),
        (
            ["load_checkpoint_path=x"],
            "load_checkpoint_path: got 'x', expected tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME",
        ),
    ],
)
def test_mistakes_end_in_one_line_that_names_field_value_and_expectation(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(argv, capsys) == (2, f"trial: {said}")


def test_a_config_that_is_made_in_python_is_checked_like_one_of_the_command_line() -> None:
    with pytest.raises(UserError, match="batch_size: got '64', expected a whole number"):
        Config(batch_size="64")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="lr_schedule: got 'lin', expected one of constant, linear, cosine"):
        Config(lr_schedule="lin")  # pyright: ignore[reportArgumentType]
    assert Config(learning_rate=1).learning_rate == 1


@pytest.mark.row(104)
def test_help_lists_every_setting_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    run_recipe(lambda config: pytest.fail(f"ran with {config}"), Config, "trial", ["lr=1", "--help"])
    told = capsys.readouterr().out
    assert told.startswith("trial: The command line of a recipe")
    assert told.index("settings of this recipe") < told.index("epochs") < told.index("settings of every recipe")
    lines = {line.split("=")[0].strip(): " ".join(line.split()) for line in told.splitlines() if line.startswith("  ")}
    assert set(lines) >= set(chz.chz_fields(Config))
    assert lines["batch_size"] == "batch_size=128 examples per step (a whole number; also bs)"
    assert lines["order"] == "order=shuffled of the rows (one of first_rows, shuffled)"
    assert lines["learning_rate"].startswith("learning_rate=None ")


def test_help_lists_what_a_recipe_adds_before_what_it_inherits(capsys: pytest.CaptureFixture[str]) -> None:
    @chz.chz
    class Special(Config):
        judge: str = chz.field(default="", doc="who judges")
        epochs: int = chz.field(default=2, doc="its own default is no setting of its own")

    run_recipe(lambda config: None, Special, "trial", ["--help"])
    told = capsys.readouterr().out
    assert told.index("judge=") < told.index("epochs=2") < told.index("lr_schedule=") < told.index("model_name=")


@pytest.mark.parametrize("error", [UserError("data: no rows"), RequestFailedError("out of memory")])
def test_errors_of_the_user_and_of_the_service_are_no_tracebacks(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: Config) -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_recipe(main, Config, "trial", [])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"trial: {error}\n"


def test_ctrl_c_ends_as_a_shell_expects_it_to(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_info:
        run_recipe(main, Config, "trial", [])
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == "trial: stopped\n"


def test_a_fault_at_the_start_is_one_line_and_debug_shows_its_frames(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(SystemExit) as exit_info:
        run_recipe(main, Config, "trial", ["seed=1"])
    assert exit_info.value.code == 1
    said = "trial: ZeroDivisionError: division by zero; --debug shows where it comes from\n"
    assert capsys.readouterr().err == said
    with pytest.raises(ZeroDivisionError):
        run_recipe(main, Config, "trial", ["seed=1", "--debug"])


def test_a_fault_in_the_midst_of_training_keeps_its_frames() -> None:
    def main(config: Config) -> None:
        hold()  # as a step does when it begins
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_recipe(main, Config, "trial", [])


def test_debug_shows_the_frames_of_an_error_that_is_meant_for_the_user() -> None:
    with pytest.raises(UserError, match="batch_size: got 'x'"):
        run_recipe(lambda config: None, Config, "trial", ["--debug", "batch_size=x"])


@pytest.fixture(autouse=True)
def _own_logging() -> object:
    """`run_recipe` sets up logging, which other tests must not inherit."""
    root, ours = logging.getLogger(), logging.getLogger("tinsmith.cookbook")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers, root.level = before[0], before[1]
    ours.setLevel(before[2])


@chz.chz
class WithTable(RunConfig):
    table: dict[str, float] | None = chz.field(default=None, doc="numbers by name")


@pytest.mark.row(104)
def test_a_table_is_given_whole_or_by_its_keys() -> None:
    expected = {"low": 0.8, "high": 1.28}
    assert parse(WithTable, ["table.low=0.8", "table.high=1.28"]).table == expected
    assert parse(WithTable, ["--table.low=0.8", "table.high=1.28"]).table == expected
    assert parse(WithTable, ['table={"low": 0.8, "high": 1.28}']).table == expected


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["table.low=much"], "table.low: got 'much', expected a number"),
        (["table.low=1", "table.low=2"], "table.low: got '1 and 2', expected one value"),
        (["table.low=1", "table={}"], "table: got '{} and table.low', expected the table as a whole, or its keys"),
        (["seed.low=1"], "command line: got 'seed.low', expected seed=1, as this setting has no keys"),
        (["tabel.low=1"], "command line: got 'tabel', expected the name of a setting"),
    ],
)
def test_tables_that_cannot_be_read_are_named(argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(WithTable, argv)
    assert said in str(caught.value)
