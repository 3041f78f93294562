"""Distillation as a recipe: who teaches what, files of one's own, what is refused, and what it comes to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.distillation.lessons import SEES
from tests.cookbook.rl.sums import assert_same_rows
from tests.support.recipe_runs import RecipeRun
from tinsmith.cookbook.distillation import TeacherSpec
from tinsmith.cookbook.recipes.distillation.config import SHIPPED_LEARNING_RATE, Config
from tinsmith.cookbook.recipes.distillation.distillation_dataset import (
    best_constant,
    draw_sums,
    load_domains,
    load_prompts,
)
from tinsmith.cookbook.recipes.distillation.shipped_teacher import rows as teacher_rows
from tinsmith.cookbook.recipes.distillation.train import main
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.types.errors import UserError

SMALL = [
    "batch_size=2",
    "group_size=2",
    "max_steps=2",
    "held_out=4",
    "lora_rank=4",
    "teacher_steps=2",
    "max_tokens=6",
    "drawn=16",
]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.row(96, 100, 108, 110)
def test_a_short_run_makes_a_teacher_and_two_students_and_is_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse(Config, [*SMALL, "eval_every=1", f"log_path={tmp_path}/run"])
    result = main(config)
    shown = capsys.readouterr().out
    for told in ("student", "off-policy", "on-policy", "teacher", "one answer", "4 of them"):
        assert told in shown
    for folder in (".", "off_policy"):
        rows = read_rows(tmp_path / "run" / folder / "metrics.jsonl")
        assert [row["step"] for row in rows if "eval/test/teacher_kl" in row] == [0, 1, 2]
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert (kept["method"], kept["learning_rate"]) == ("both", SHIPPED_LEARNING_RATE)
    # Teacher and students are finished: nothing is done again.
    assert main(config) == result
    with pytest.raises(UserError, match="top_k"):
        main(parse(Config, [*SMALL, "eval_every=1", "top_k=2", f"log_path={tmp_path}/run"]))


@pytest.mark.row(100)
@pytest.mark.parametrize("method", ["on_policy", "off_policy"])
def test_a_file_of_one_s_own_with_self_distillation(method: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+{b}", "answer": a + b} for a in range(5) for b in range(4)]
    file = write(tmp_path / "mine.jsonl", *rows)
    settings = [*SMALL, f"prompts={file}", f"teacher_sees={SEES}", f"method={method}", "eval_every=0"]
    result = main(parse(Config, [*settings, f"log_path={tmp_path}/run"]))
    assert result.metrics["eval/test/teacher_correct"] == 1.0
    held = json.loads((tmp_path / "run" / ("groups.json" if method == "on_policy" else "teacher.json")).read_text())
    (domain,) = held["domains"]
    assert (domain["name"], domain["teacher"], domain["prompts"]) == ("mine", "tinsmith-tiny", 16)
    # Other prompts make it another run.
    write(file, *rows[:-1])
    with pytest.raises(UserError, match=r"\.domains: "):
        main(parse(Config, [*settings, f"log_path={tmp_path}/run"]))


@pytest.mark.row(100)
def test_several_domains_with_a_teacher_each(tmp_path: Path) -> None:
    sums = write(tmp_path / "sums.jsonl", *({"problem": f"{a}+1", "answer": a + 1} for a in range(9)))
    words = write(
        tmp_path / "words.jsonl", *({"messages": [{"role": "user", "content": f"copy: {w}"}]} for w in "abcde")
    )
    file = tmp_path / "domains.json"
    file.write_text(
        json.dumps(
            [
                {"name": "sums", "prompts": str(sums), "held_out": 3, "teacher_sees": SEES},
                {"name": "words", "prompts": str(words), "held_out": 2, "teacher_model": "tinsmith-tiny"},
            ]
        )
    )
    result = main(parse(Config, [*SMALL, f"domains={file}", f"log_path={tmp_path}/run"]))
    assert {"eval/test/sums/correct", "eval/test/teacher_kl/sums", "eval/test/teacher_kl/words"} <= set(result.metrics)
    assert "eval/test/words/correct" not in result.metrics  # nobody knows what is right there
    first, second = load_domains(parse(Config, [f"domains={file}"]))
    assert (len(first.prompts), len(first.held_out), first.teacher) == (6, 3, TeacherSpec("tinsmith-tiny"))
    assert (len(second.prompts), len(second.held_out), second.teacher_sees) == (3, 2, None)


@pytest.mark.row(100)
def test_prompts_of_many_kinds_and_none_on_both_sides(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "hi"}
    file = write(
        tmp_path / "mine.jsonl",
        {"prompt": "a", "answer": 1},
        {"question": "b", "solution": "2"},
        {"messages": [asked, {"role": "assistant", "content": "somebody's answer"}]},
        *({"prompt": f"again {i % 3}"} for i in range(9)),
    )
    for seed in range(5):
        learned, asked_prompts = load_prompts(str(file), 3, seed)
        assert not {str(p.messages) for p in learned} & {str(p.messages) for p in asked_prompts}
    everything = [*learned, *asked_prompts]
    by_text = {prompt.messages[-1]["content"]: prompt for prompt in everything}
    assert (by_text["a"].answer, by_text["b"].answer, by_text["hi"].answer) == ("1", "2", None)
    with pytest.raises(UserError, match=r"held_out: got 12, expected fewer than the 12 prompts"):
        load_prompts(str(file), 12, 0)


def test_sums_that_are_asked_are_taught_to_nobody() -> None:
    learned, asked = draw_sums(960, 200, 0)
    held_out = {prompt.messages[-1]["content"] for prompt in asked}
    assert len(held_out) == 200
    assert not held_out & {prompt.messages[-1]["content"] for prompt in learned}
    assert not held_out & {row["messages"][0]["content"] for row in teacher_rows(2000, 0)}
    (domain,) = load_domains(Config())
    assert 0.0 < (best_constant(domain) or 0.0) < 0.05


@pytest.mark.row(104)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prompts=mine.jsonl"], "teacher_model: got None, expected a teacher: teacher_model=NAME, teacher_path="),
        (["model_name=Qwen/Qwen3-8B"], "teacher_model: got None, expected a teacher"),
        (["teacher_model=a", "teacher_path=tinker://x:train:0/sampler_weights/y"], "teacher_path: .* one teacher"),
        (["teacher_path=somewhere"], "teacher_path: got 'somewhere', expected tinker://"),
        (["teacher_base_url=http://x"], "teacher_base_url: .* teacher_model or teacher_path beside it"),
        (["domains=d.json", "prompts=p.jsonl"], "prompts: got 'p.jsonl', expected None: the file of domains says it"),
        (["domains=nowhere.json"], "domains: got 'nowhere.json', expected a JSON file that can be read"),
        (["prompts=nowhere.jsonl", "teacher_model=tinsmith-tiny"], r"prompts: got 'nowhere\.jsonl', expected a JSONL"),
        (["method=off_policy", "kl_discount=0.5"], "kl_discount: got 0.5, expected 0.0: off-policy nothing"),
        (["method=sideways"], "method: got 'sideways', expected one of on_policy, off_policy, both"),
        (["held_out=0"], "held_out: got 0, expected a number of prompts"),
        (["held_out=251"], "held_out: got 251, expected at most 250 sums"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_a_run_is_begun(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        main(parse(Config, [*settings, f"log_path={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": ""}', r"mine\.jsonl, line 2: row: got \['prompt'\], expected messages, or a text"),
        ("3", r"line 2"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "line 2: messages: .* in which the user asks last"),
        ('{"prompt": "x", "answer": [1]}', r"line 2: answer: got \[1\], expected a text or a number"),
    ],
)
def test_a_row_that_asks_nothing_is_refused_by_its_line(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(f'{{"prompt": "a"}}\n{row}\n')
    with pytest.raises(UserError, match=message):
        load_prompts(str(tmp_path / "mine.jsonl"), 1, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{}", "a JSON list of at least one object"),
        ("[3]", "domain 0: row: got 3, expected an object with"),
        ('[{"name": "a", "prompts": "P"}]', "domain 0: teacher_model: got None, expected a teacher"),
        ('[{"name": "a", "prompts": "P", "teacher": "x"}]', "domain 0: row: got 'teacher', expected one of held_out"),
        ('[{"name": "a", "prompts": "P", "teacher_model": "x"}, {"name": "a", "prompts": "P", "teacher_model": "x"}]',
         "a name of its own for each domain"),
    ],
)  # fmt: skip
def test_a_file_of_domains_that_cannot_be_used_is_refused(rows: str, message: str, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    (tmp_path / "d.json").write_text(rows.replace('"P"', json.dumps(str(prompts))))
    with pytest.raises(UserError, match=message):
        load_domains(Config(domains=str(tmp_path / "d.json"), held_out=1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(100, 108)
@pytest.mark.parametrize("seed", [0, 1])
def test_without_arguments_both_students_come_near_to_the_teacher(seed: int, tmp_path: Path) -> None:
    """Off-policy and on-policy on sums that neither was taught; seed 0 is what the command does without arguments."""
    used = time.process_time()
    main(parse(Config, [f"seed={seed}", f"log_path={tmp_path}/run"]))
    # The engine is in this process: what a quiet machine takes with one thread, whatever else this one does.
    assert time.process_time() - used < 300
    on, off = (read_rows(tmp_path / "run" / folder / "metrics.jsonl") for folder in (".", "off_policy"))
    before, teacher = on[0]["eval/test/correct"], on[0]["eval/test/teacher_correct"]
    assert teacher >= before + 0.25
    for rows in (on, off):
        assert rows[-1]["eval/test/correct"] >= before + 0.2
        assert rows[-1]["eval/test/teacher_kl"] <= 0.25 * rows[0]["eval/test/teacher_kl"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(110)
def test_a_run_that_is_killed_in_every_stage_comes_to_the_same_end(tmp_path: Path) -> None:
    small = [each for each in SMALL if not each.startswith(("max_steps", "teacher_steps"))]
    settings = (*small, "max_steps=7", "teacher_steps=5", "rolling_save_every=2", "eval_every=0")
    whole, killed = (
        RecipeRun("distillation.train", tmp_path / name, tmp_path / "home", settings, {})
        for name in ("whole", "killed")
    )
    whole.finish()
    stages = [RecipeRun("", killed.log_path / stage, killed.home, (), {}) for stage in ("teacher", "off_policy", ".")]
    for stage, rows in zip(stages, (2, 3, 5), strict=True):
        process = killed.start()
        while len(stage.lines()) < rows and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        told, _ = process.communicate()
        assert process.returncode == -9, told
        assert not (stage.log_path / "checkpoints.jsonl").exists() or "final" not in str(stage.checkpoints())
    killed.finish()
    for stage in ("teacher", "off_policy", "."):
        given, expected = (RecipeRun("", run.log_path / stage, run.home, (), {}).metrics() for run in (killed, whole))
        assert_same_rows(given, expected)
