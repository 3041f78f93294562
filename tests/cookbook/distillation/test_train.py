"""Small runs: what is learned, what is measured, and that a run which is taken up again comes to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.distillation.lessons import ITSELF, SEES, config, domain, rows, sums
from tests.cookbook.rl.sums import assert_same_rows
from tests.cookbook.rl.sums import sums as rewarded_sums
from tinsmith.cookbook import rl
from tinsmith.cookbook.distillation import DistillationConfig, Domain, Prompt, train_off_policy, train_on_policy
from tinsmith.cookbook.distillation.on_policy import TeacherObjective
from tinsmith.cookbook.distillation.prompts import messages_for_teacher
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.training import set_up_model
from tinsmith.types.errors import UserError

METHODS = {"on": train_on_policy, "off": train_off_policy}


@pytest.mark.row(100)
@pytest.mark.parametrize("top_k", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_on_policy_the_student_comes_nearer_to_a_teacher_that_has_seen_the_answer(top_k: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 5, "batch_size": 16, "epochs": 5, "learning_rate": 4e-3}
    result = train_on_policy(config(tmp_path / "run", top_k=top_k, eval_every=3, **settings), "test", [domain()])
    found = rows(tmp_path / "run")
    # Every step has all prompts.
    kls = [row["train/teacher_kl"] for row in found if "train/teacher_kl" in row]
    assert kls[4] < 0.75 * kls[0]
    assert [row["step"] for row in found if "eval/test/teacher_kl" in row] == [0, 3, 5]
    assert result.metrics["eval/test/teacher_correct"] == 1.0
    assert 0.0 <= result.metrics["eval/test/correct"] <= 1.0
    # The weights that sampled are those that learn, whichever way the loss is computed.
    assert all(abs(row["train/kl_sampler_learner"]) < 1e-4 for row in found[:-1])
    # There are no rewards, so nobody is told of them.
    assert not {"env/constant_reward_share", "env/reward"} & set(found[0])


@pytest.mark.row(100)
def test_a_teacher_that_is_the_student_has_nothing_to_teach(tmp_path: Path) -> None:
    for name, more in (("sampled", {}), ("likeliest", {"top_k": 16})):
        itself = domain(ITSELF, sees=None)
        train_on_policy(config(tmp_path / name, max_steps=1, **more), "test", [itself])
        (row, _) = rows(tmp_path / name)
        assert row["train/teacher_kl"] == pytest.approx(0.0, abs=1e-4)
        assert row["train/loss"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.row(100)
def test_the_loss_over_likely_tokens_is_near_the_mean_of_what_sampled_tokens_say(tmp_path: Path) -> None:
    train_on_policy(config(tmp_path / "run", max_steps=1, batch_size=16, group_size=4, top_k=64), "test", [domain()])
    row = rows(tmp_path / "run")[0]
    # 128 answers: one is exact at each state, the other an estimate of the same.
    assert row["train/loss"] / row["train/trained_tokens"] == pytest.approx(row["train/teacher_kl"], rel=0.25)


@pytest.mark.row(100)
@pytest.mark.parametrize("top_k", [pytest.param(0, marks=pytest.mark.slow), 8])
def test_off_policy_the_student_learns_what_the_teacher_says(top_k: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 6, "batch_size": 8, "group_size": 4, "learning_rate": 4e-3, "epochs": 3}
    train_off_policy(config(tmp_path / "run", top_k=top_k, **settings), "test", [domain()])
    found = rows(tmp_path / "run")
    assert found[5]["train/nll"] < 0.7 * found[0]["train/nll"]
    if top_k:
        assert found[0]["train/teacher_mass"] > 0.95
    answers = [json.loads(line) for line in (tmp_path / "run/teacher.jsonl").open()]
    assert [row["prompt"] for row in answers] == [place for place in range(16) for _ in range(4)]
    right = [row["said"] == sums(16)[row["prompt"]].answer for row in answers]
    assert sum(right) / len(right) > 0.9


@pytest.mark.slow
@pytest.mark.row(100)
def test_soft_targets_teach_more_than_one_token_at_a_place(tmp_path: Path) -> None:
    """Their loss is the cross-entropy of two distributions, so it has the teacher's own entropy as its least."""
    itself = domain(ITSELF, sees=None)
    for top_k in (1, 64):
        train_off_policy(config(tmp_path / f"{top_k}", max_steps=1, batch_size=16, top_k=top_k), "test", [itself])
    least, most = (rows(tmp_path / name)[0] for name in ("1", "64"))
    assert most["train/teacher_mass"] > 0.999 > least["train/teacher_mass"]
    # The student is the teacher: for the likeliest token alone it is sure, for all of them it is as unsure as it is.
    assert 0 < least["train/nll"] < most["train/nll"]


@pytest.mark.row(110)
@pytest.mark.parametrize(
    ("method", "top_k"),
    [("on", 0), ("off", 4), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("on", 4), ("off", 0)))],
)
def test_a_run_that_was_stopped_carries_on_with_the_metrics_of_one_that_was_not(
    method: str, top_k: int, tmp_path: Path
) -> None:
    def run(name: str, steps: int) -> list[dict[str, Any]]:
        settings = config(tmp_path / name, top_k=top_k, max_steps=steps, save_every=1)
        METHODS[method](settings, "test", [domain()])
        return rows(tmp_path / name)

    run("stopped", 1)
    assert_same_rows(run("stopped", 3), run("whole", 3))


@pytest.mark.row(110)
def test_answers_that_are_there_are_not_asked_for_again_and_the_rest_is_what_it_would_have_been(
    tmp_path: Path,
) -> None:
    settings = config(tmp_path / "run", group_size=3)
    train_off_policy(settings, "test", [domain()])
    whole = (tmp_path / "run/teacher.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 48
    # Killed in the middle of a line, before there was a state of the student.
    other = tmp_path / "killed"
    other.mkdir()
    (other / "teacher.json").write_text((tmp_path / "run/teacher.json").read_text())
    (other / "teacher.jsonl").write_text("".join(lines[:22]) + lines[22][:9])
    train_off_policy(config(other, group_size=3), "test", [domain()])
    assert (other / "teacher.jsonl").read_text() == whole
    # Of another teacher they are no use.
    with pytest.raises(UserError, match=r"teacher\.domains: .*teacher_sees"):
        train_off_policy(config(other, group_size=3), "test", [domain(sees=None)])


@pytest.mark.row(100)
@pytest.mark.parametrize("method", ["on", "off"])
def test_each_domain_has_its_teacher_and_its_numbers(method: str, tmp_path: Path) -> None:
    """One of the two teachers has seen the answers, the other is the student itself."""
    seen = domain()
    other = Domain("same", [Prompt([{"role": "user", "content": f"copy: {w}"}], w) for w in ("tin", "oak", "elm")],
                   [Prompt([{"role": "user", "content": "copy: ash"}], "ash")], ITSELF)  # fmt: skip
    settings = config(tmp_path / "run", batch_size=19, max_steps=1, eval_every=1)
    METHODS[method](settings, "test", [seen, other])
    first, last = rows(tmp_path / "run")
    assert {"eval/test/sums/correct", "eval/test/same/correct", "eval/test/sums/teacher_correct"} <= set(last)
    assert first["eval/test/teacher_kl/same"] == pytest.approx(0.0, abs=1e-4)
    assert first["eval/test/teacher_kl/sums"] > 0.1
    if method == "on":
        assert first["train/teacher_kl/same"] == pytest.approx(0.0, abs=1e-4)
        assert first["train/teacher_kl/sums"] > 0.1
    else:
        assert {"train/nll", "train/nll/sums", "train/nll/same"} <= set(first)
    held = json.loads((tmp_path / "run" / ("groups.json" if method == "on" else "teacher.json")).read_text())
    assert [each["name"] for each in held["domains"]] == ["sums", "same"]


@pytest.mark.row(113)
@pytest.mark.parametrize(("method", "top_k", "heading"), [("on", 0, "group 0"), ("off", 4, "Training examples")])
def test_pages_show_what_is_learned_of_every_token(method: str, top_k: int, heading: str, tmp_path: Path) -> None:
    METHODS[method](config(tmp_path / "run", eval_every=1, max_steps=1, top_k=top_k), "test", [domain()])
    assert heading in (tmp_path / "run/transcripts/step-000000.html").read_text()


def test_what_the_teacher_sees() -> None:
    prompt = Prompt([{"role": "system", "content": "s"}, {"role": "user", "content": "{answer}+1"}], "2{question}")
    shown = messages_for_teacher(prompt, "{question} is {answer}, {x}")
    assert [message["content"] for message in shown] == ["s", "{answer}+1 is 2{question}, {x}"]
    assert messages_for_teacher(prompt, None) is prompt.messages
    with pytest.raises(UserError, match=r"teacher_sees: .* has none"):
        messages_for_teacher(Prompt(prompt.messages), SEES)


@pytest.mark.row(104)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantages": "mean_std"}, "advantages: got 'mean_std', expected mean: distillation learns from no rewards"),
        ({"remove_constant_reward_groups": True}, "remove_constant_reward_groups: got True, expected False"),
        ({"kl_penalty_coef": 0.1}, "kl_penalty_coef: got 0.1, expected 0.0"),
        ({"kl_discount": 1.5}, "kl_discount: got 1.5, expected 0 to 1"),
        ({"top_k": 4, "kl_discount": 0.5}, "kl_discount: got 0.5, expected 0.0, or top_k=0"),
        ({"top_k": 4, "loss_fn": "ppo"}, "loss_fn: got 'ppo', expected importance_sampling, or top_k=0"),
        ({"top_k": -1}, "top_k: got -1, expected at least 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DistillationConfig(**settings)


@pytest.mark.row(104)
def test_off_policy_what_is_about_rollouts_is_refused_and_long_answers_are_cut(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="loss_fn: got 'ppo', expected importance_sampling: off-policy nothing is rolled"
    ):
        train_off_policy(config(tmp_path / "run", loss_fn="ppo"), "test", [domain()])
    assert not (tmp_path / "run").exists()
    settings = config(tmp_path / "run", max_steps=1, max_trajectory_tokens=7, top_k=2)
    train_off_policy(settings, "test", [Domain("sums", sums(16), (), ITSELF)])
    row = rows(tmp_path / "run")[0]
    # A question has 6 to 8 tokens, its answer two or three.
    assert row["train/truncated"] > 0
    assert row["train/trained_tokens"] <= row["train/examples"]


def test_a_group_without_a_teacher_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", max_steps=1)
    with Run(settings, "test") as run:
        model = set_up_model(run, settings)
        groups = rewarded_sums(settings)(model)
        with pytest.raises(UserError, match="dataset: got 'groups of RepeatedEnv', expected groups of TaughtGroup"):
            rl.train_on_groups(settings, run, model, groups, objective=TeacherObjective(settings))
    with pytest.raises(UserError, match="domains: got 'none', expected at least one"):
        train_on_policy(settings, "test", [])
