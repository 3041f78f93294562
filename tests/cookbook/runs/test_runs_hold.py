"""Facts that a run is held to: noted in its folder, compared when it is taken up again, named where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.runs import toy_recipe
from tests.cookbook.runs.toy_recipe import Config
from tinsmith.cookbook.runs import Run
from tinsmith.types.errors import UserError

FACTS = {"path": "tinker://a/weights/1", "beta": 0.1}


def config(folder: Path, **settings: Any) -> Config:
    return Config(log_path=str(folder), max_steps=2, batch_size=2, lora_rank=4, **settings)


def hold(folder: Path, facts: dict[str, Any], *, name: str = "reference", at_once: bool = False) -> None:
    with Run(config(folder), "toy", free=("seconds",)) as run:
        run.hold(name, facts, at_once=at_once)


@pytest.mark.row(110)
def test_facts_may_be_corrected_until_a_state_is_saved_and_then_hold(tmp_path: Path) -> None:
    hold(tmp_path, {"path": "mistyped"})
    hold(tmp_path, FACTS)
    assert json.loads((tmp_path / "reference.json").read_text()) == FACTS
    toy_recipe.main(config(tmp_path))
    hold(tmp_path, FACTS)
    with pytest.raises(UserError) as told:
        hold(tmp_path, {"path": "tinker://b/weights/1", "beta": 0.1, "more": 1})
    assert str(told.value) == (
        "reference.path: got 'tinker://b/weights/1', expected 'tinker://a/weights/1'; "
        f"reference.more: got 1, expected None, as the run in {tmp_path} was begun with; to go on with others, take "
        "another log_path, and its last state as load_checkpoint_path"
    )
    assert json.loads((tmp_path / "reference.json").read_text()) == FACTS


def test_facts_that_files_stand_on_hold_at_once(tmp_path: Path) -> None:
    hold(tmp_path, FACTS, at_once=True)
    with pytest.raises(UserError, match=r"reference\.beta: got 0\.2, expected 0\.1"):
        hold(tmp_path, {**FACTS, "beta": 0.2}, at_once=True)


def test_facts_are_compared_as_they_are_read_again(tmp_path: Path) -> None:
    hold(tmp_path, {"betas": (0.9, 0.95)}, at_once=True)
    hold(tmp_path, {"betas": [0.9, 0.95]}, at_once=True)
    hold(tmp_path, {"betas": (0.9, 0.95)}, at_once=True)


@pytest.mark.row(110)
def test_the_note_of_the_data_that_older_runs_wrote_is_read(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path))
    (tmp_path / "data.json").write_text('{"rows": 10, "sha256": "7f32ee"}\n')
    hold(tmp_path, {"rows": 10, "sha256": "7f32ee"}, name="data")
    assert (tmp_path / "data.json").read_text() == '{"rows": 10, "sha256": "7f32ee"}\n'
    with pytest.raises(UserError, match=r"data\.rows: got 9, expected 10; data\.sha256: got 'aa', expected '7f32ee'"):
        hold(tmp_path, {"rows": 9, "sha256": "aa"}, name="data")


def test_a_run_that_noted_nothing_is_not_held_to_anything_yet(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path))
    hold(tmp_path, FACTS)
    with pytest.raises(UserError, match=r"reference\.beta"):
        hold(tmp_path, {**FACTS, "beta": 0.2})


@pytest.mark.parametrize("text", ["{", "[]\n"])
def test_a_note_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(UserError, match=r"reference\.json: got what cannot be read \(.*\), expected a JSON object"):
        hold(tmp_path, FACTS, at_once=True)


def test_the_file_of_the_settings_is_no_place_for_facts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="facts: got 'config', expected another name"):
        hold(tmp_path, FACTS, name="config")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "reference.json.new").mkdir()
    with pytest.raises(UserError, match=r"log_path: got .* expected a folder that can be written \(Is a directory"):
        hold(tmp_path, FACTS)


# -- settings that a recipe has no more -------------------------------------------------------------------------------


def test_a_setting_that_is_no_more_is_no_hindrance_where_it_was_off(tmp_path: Path) -> None:
    toy_recipe.main(config(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "held_out": 0, "judge": None}))
    toy_recipe.main(config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**written, "held_out": 8}))
    with pytest.raises(UserError, match="held_out: got None, expected 8, as the run in"):
        toy_recipe.main(config(tmp_path))


# -- how a run ends ---------------------------------------------------------------------------------------------------


def test_a_run_ends_with_what_to_do_with_it_also_when_it_was_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_recipe.main(config(tmp_path))
    first = capsys.readouterr().out
    saved, chat = first.splitlines()[-2:]
    path = saved.removeprefix("saved ")
    assert path.startswith("tinker://")
    assert chat == f"chat with it: tinsmith chat {path}"
    toy_recipe.main(config(tmp_path))
    again = capsys.readouterr().out.splitlines()
    assert again == [
        f"the run in {tmp_path} is finished; set epochs or max_steps higher, or choose another log_path",
        saved,
        chat,
    ]


def test_a_run_that_fails_promises_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Run(config(tmp_path), "toy", free=("seconds",)) as run:
            run.save_final(0, run.training_client())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "saved tinker" not in capsys.readouterr().out
