"""Prompt distillation: the teacher's answers kept over a kill, what is left out, and a student that needs no prompt."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tinsmith
from tests.cookbook.recipes.expected import expected_numbers, run_without_arguments
from tests.support.checkpoints import checkpoint
from tests.support.live_server import LiveServer
from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.recipes.prompt_distillation import teacher
from tinsmith.cookbook.recipes.prompt_distillation.agreement import share_equal
from tinsmith.cookbook.recipes.prompt_distillation.config import Config
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import (
    Query,
    distil,
    load_prompt,
    load_queries,
)
from tinsmith.cookbook.recipes.prompt_distillation.teacher import with_prompt
from tinsmith.cookbook.recipes.prompt_distillation.train import main
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.words import split_of
from tinsmith.models import path as shipped_model
from tinsmith.types.errors import UserError

COMMAND = [sys.executable, "-m", "tinsmith.cookbook.recipes.prompt_distillation.train"]


def write_task(folder: Path, queries: int = 64) -> list[str]:
    """Write a prompt and queries of one's own, as many as asked for, with right answers; return the arguments."""
    (folder / "prompt.txt").write_text("Answer in upper case.\n")
    words = [f"{a}{b}{c}" for a in "bcdfgh" for b in "aeiou" for c in ("lm", "nt", "rk")][:queries]
    rows: list[dict[str, Any]] = [{"query": f"copy: {word}", "answer": word.upper()} for word in words]
    rows[0] = {"messages": [{"role": "user", "content": rows[0]["query"]}]}
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"teacher_prompt={folder}/prompt.txt", f"queries={folder}/queries.jsonl", "held_out=16"]


def small(folder: Path, *arguments: str, log_path: str = "run", eval_every: int = 0) -> Config:
    settings = ["batch_size=16", "max_tokens=24", "save_every=4", f"log_path={folder}/{log_path}"]
    settings.append(f"eval_every={eval_every}")
    return parse(Config, [*settings, *arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what time measures."""
    kept = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows_of(path / "metrics.jsonl")]
    assert kept
    return kept


@pytest.mark.row(68, 112)
def test_the_student_learns_what_the_prompt_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(small(tmp_path, *write_task(tmp_path), "epochs=3", eval_every=4))
    rows = numbers_of(tmp_path / "run")
    before, after = rows[0], rows[-1]
    assert [row["step"] for row in rows if "eval/agreement" in row] == [0, 4, 8, 9]
    assert before["eval/agreement"] == before["eval/accuracy"] == 0.0
    assert after["teacher/majority"] == 0.0
    assert after["teacher/accuracy"] >= 0.9
    assert after["eval/agreement"] >= 0.6
    assert after["test/nll"] < 0.2 * before["test/nll"]
    shown = capsys.readouterr().out
    assert "agreement with the teacher" in shown
    assert "tokens of a prompt" in shown
    page = next((tmp_path / "run").rglob("step-000009.html")).read_text()
    assert f"agreement: {after['eval/agreement']:.1%} of 16" in page


@pytest.mark.row(68)
def test_a_teacher_that_was_stopped_is_asked_only_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "_CHUNK", 16)
    task = [*write_task(tmp_path, 48), "teacher_temperature=1.5", "epochs=1"]
    main(small(tmp_path, *task, log_path="whole"))

    append = teacher.append_rows
    appended: list[int] = []

    def stop_in_the_second(path: Path, rows: Any) -> None:
        append(path, rows)
        appended.append(len(rows))
        if len(appended) == 2:  # a chunk, and half of the next
            whole = path.read_bytes()
            path.write_bytes(whole[: -len(whole.splitlines()[-1]) // 2])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "append_rows", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            main(small(tmp_path, *task, log_path="stopped"))
    asked: list[int] = []
    sample = teacher.sample_responses

    def counted(sampler: Any, renderer: Any, conversations: Any, **options: Any) -> Any:
        asked.append(len(conversations))
        return sample(sampler, renderer, conversations, **options)

    monkeypatch.setattr(teacher, "sample_responses", counted)
    main(small(tmp_path, *task, log_path="stopped"))
    assert 0 < sum(asked) < 32
    assert (tmp_path / "stopped/teacher.jsonl").read_text() == (tmp_path / "whole/teacher.jsonl").read_text()
    for given, expected in zip(numbers_of(tmp_path / "stopped"), numbers_of(tmp_path / "whole"), strict=True):
        assert given == pytest.approx(expected, rel=1e-4)

    asked.clear()
    main(small(tmp_path, *task, log_path="stopped"))
    assert asked == []  # finished: nothing is done again
    (tmp_path / "prompt.txt").write_text("Put every answer in quotes.")
    with pytest.raises(UserError, match=r"teacher\.prompt_sha256: got '\w+', expected '\w+', as the run in .*stopped"):
        main(small(tmp_path, *task, log_path="stopped"))


@pytest.mark.row(68, 110)
def test_answers_that_an_older_run_has_kept_are_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their file began with one hash over teacher, prompt and queries; there was no `teacher.json`."""
    task = [*write_task(tmp_path, 48), "max_steps=1"]
    main(small(tmp_path, *task, log_path="new"))
    answers = (tmp_path / "new/teacher.jsonl").read_text()
    header = '{"teacher": "70f328a8a33355b0d76059de22a701c03b70b5a40fdc5de89a49323739751098"}\n'
    (tmp_path / "old").mkdir()
    (tmp_path / "old/teacher.jsonl").write_text(header + answers)
    monkeypatch.setattr(teacher, "sample_responses", lambda *_, **__: pytest.fail("asked again"))
    main(small(tmp_path, *task, log_path="old"))
    assert (tmp_path / "old/teacher.jsonl").read_text() == header + answers
    assert numbers_of(tmp_path / "old") == numbers_of(tmp_path / "new")

    (tmp_path / "old/teacher.json").unlink()
    (tmp_path / "prompt.txt").write_text("Put every answer in quotes.")
    with pytest.raises(UserError, match=r"log_path: got .*old', expected a run of the same teacher, prompt and quer"):
        main(small(tmp_path, *task, log_path="old"))


def test_a_full_disk_is_named_and_what_was_sampled_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "_CHUNK", 16)
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task = [*write_task(tmp_path, 48), "max_steps=1"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"log_path: got .*run', expected .*No space left on device"):
            main(small(tmp_path, *task))
    before = rows_of(tmp_path / "run/teacher.jsonl")
    assert len(before) >= 16  # a chunk
    main(small(tmp_path, *task))
    after = rows_of(tmp_path / "run/teacher.jsonl")
    assert after[: len(before)] == before
    assert len(after) == 48


@pytest.mark.row(68)
def test_the_teacher_may_be_another_model_or_a_checkpoint(tmp_path: Path) -> None:
    task = [*write_task(tmp_path, 32), "epochs=1", "max_steps=1"]
    path = (
        tinsmith.ServiceClient()
        .create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
        .save_weights_for_sampler("teacher")
        .result()
        .path
    )
    main(small(tmp_path, *task, f"teacher_path={path}", log_path="checkpoint"))
    answers = rows_of(tmp_path / "checkpoint/teacher.jsonl")
    assert sum(answer["message"]["content"].isupper() for answer in answers) >= 28

    other = str(checkpoint("llama"))
    with pytest.raises(UserError, match=r"teacher_model: got .*, expected tinsmith-tiny, the base of tinker://"):
        main(small(tmp_path, *task, f"teacher_path={path}", f"teacher_model={other}", log_path="both"))
    # Random weights never end a turn: every answer of theirs is cut off, and there is nothing to learn.
    with pytest.raises(UserError, match=r"teacher: got .*'cut off': 3\d.*, expected answers"):
        main(small(tmp_path, *task, f"teacher_model={other}", log_path="random"))
    answers = rows_of(tmp_path / "random/teacher.jsonl")
    assert len(answers) == 32


def answer(content: str, end: str = "marker", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}, "end": end}


@pytest.mark.row(68)
def test_what_cannot_be_learned_is_left_out_and_counted() -> None:
    query = Query([{"role": "user", "content": "?"}])
    call = {"type": "function", "function": {"name": "lookup", "arguments": {"key": "tin"}}}
    given = [
        answer("Answer: yes", reasoning_content="hm"),
        answer("Answer: n", end="cut_off"),
        answer("  "),
        answer("", tool_calls=[call]),
        answer("", unparsed_tool_calls=[{"text": "{", "reason": "not JSON"}]),
    ]
    pairs = [(query, one) for one in given]
    found = distil(pairs, pairs[:1], keep_thinking=False, answer_pattern=None)
    assert [row["messages"][-1].get("content") for row in found.rows] == ["Answer: yes", ""]
    assert found.dropped == {"cut off": 1, "empty": 1, "malformed tool call": 1}
    assert "reasoning_content" not in found.rows[0]["messages"][-1]

    found = distil(pairs[:3], pairs[:1], keep_thinking=True, answer_pattern=r"Answer: (\w+)")
    assert found.rows[0]["messages"][-1] == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert found.dropped == {"cut off": 1, "without the pattern": 1}
    with pytest.raises(UserError, match=r"teacher: got .*'cut off': 2"):
        distil(pairs[1:2], pairs[1:2], keep_thinking=False, answer_pattern=None)


def test_what_is_compared_of_two_answers() -> None:
    call = {"function": {"name": "lookup", "arguments": {"b": 1, "a": 2}}}
    as_text = {"id": "x", "function": {"name": "lookup", "arguments": '{"a": 2, "b": 1}'}}
    assert spoken({"content": " x ", "tool_calls": [call]}) == spoken({"content": "x", "tool_calls": [as_text]})
    assert spoken({"content": "x", "reasoning_content": "hm"}) == spoken({"content": "x"}) != spoken({"content": "y"})
    assert spoken({"content": None, "tool_calls": [call]}) == '["lookup", {"a": 2, "b": 1}]'
    assert share_equal(["a", "b"], ["a", "c"]) == 0.5


def test_the_prompt_comes_before_a_query_s_own_system_message() -> None:
    asked = [{"role": "user", "content": "?"}]
    assert with_prompt(asked, "P") == [{"role": "system", "content": "P"}, *asked]
    assert with_prompt([{"role": "system", "content": "S"}, *asked], "P")[0]["content"] == "P\n\nS"


def test_shipped_queries_are_split_by_words_and_those_of_a_file_by_seed(tmp_path: Path) -> None:
    train, held_out = load_queries(None, 50, seed=0)
    assert (len(train), len(held_out)) == (800, 50)
    for query in held_out:
        assert isinstance(query.answer, dict)
        (word,) = query.answer["tool_calls"][0]["function"]["arguments"].values()
        assert split_of(word) == "held_out"
        assert word in query.messages[0]["content"]
    assert load_prompt(None).startswith("Tools:\n{")
    write_task(tmp_path)
    path = str(tmp_path / "queries.jsonl")
    first, again = load_queries(path, 0.25, seed=1), load_queries(path, 0.25, seed=1)
    assert first == again != load_queries(path, 0.25, seed=2)
    assert (len(first[0]), len(first[1])) == (48, 16)
    assert not {str(q.messages) for q in first[0]} & {str(q.messages) for q in first[1]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"queries\.jsonl, line 2: not JSON \(Expecting property name"),
        ('{"question": "x"}', 'queries.jsonl, line 2: row: got .*, expected an object with either "query" or'),
        ('{"query": " "}', "queries.jsonl, line 2: query: got ' ', expected a text that is not empty"),
        ('{"query": "x", "answer": 3}', "queries.jsonl, line 2: answer: got 3, expected a text"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', "queries.jsonl, line 2: messages.*role: got 'boss'"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "queries.jsonl, line 2: messages: got 'an answer"),
    ],
)
def test_a_line_that_is_no_query_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(f'{{"query": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        load_queries(str(tmp_path / "queries.jsonl"), 1, seed=0)


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["teacher_prompt=x.txt"], "queries: got None, expected a JSONL file exactly where teacher_prompt is given"),
        (["data=x.jsonl"], "command line: got 'data', expected the name of a setting"),
        (["held_out=0"], "held_out: got 0, expected a number of queries"),
        (["answer_pattern=x"], "answer_pattern: got 'x', expected a regular expression with one"),
        (["answer_pattern=("], r"answer_pattern: got '\(', expected a regular expression \("),
        (["teacher_temperature=-1"], "teacher_temperature: got -1.0, expected 0"),
        (["teacher_path=here"], "teacher_path: got 'here'"),
    ):
        with pytest.raises(UserError, match=message):
            parse(Config, arguments)
    with pytest.raises(UserError, match=r"teacher_prompt: got 'nowhere.txt', expected a text file"):
        main(small(tmp_path, "teacher_prompt=nowhere.txt", "queries=x.jsonl"))
    arguments = [*write_task(tmp_path, 16), "held_out=16"]
    with pytest.raises(UserError, match="held_out: got 16, expected fewer than the 16 queries"):
        main(small(tmp_path, *arguments[:2], "held_out=16"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.row(68)
def test_a_service_at_a_url_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(shipped_model())
    task = [*write_task(tmp_path, 48), f"model_name={name}", "renderer_name=tinsmith_tiny"]
    task += ["teacher_renderer_name=tinsmith_tiny", "learning_rate=4e-3"]
    main(small(tmp_path, *task, log_path="here"))
    server = LiveServer(tmp_path, name)
    server.start()
    try:
        monkeypatch.setenv("TINSMITH_API_KEY", server.key)
        main(small(tmp_path, *task, f"base_url={server.url}", log_path="there"))
    finally:
        server.stop()
    assert (tmp_path / "here/teacher.jsonl").read_text() == (tmp_path / "there/teacher.jsonl").read_text()
    for given, expected in zip(numbers_of(tmp_path / "there"), numbers_of(tmp_path / "here"), strict=True):
        assert given == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.row(68, 110)
def test_a_run_that_is_killed_comes_to_the_same_numbers(tmp_path: Path) -> None:
    arguments = [*COMMAND, *write_task(tmp_path, 90), "batch_size=4", "epochs=4", "save_every=5", "max_tokens=24"]
    whole = subprocess.run([*arguments, f"log_path={tmp_path}/whole"], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    killed = 0
    for wait in (6.0, 8.0, 10.0):
        started = subprocess.Popen([*arguments, f"log_path={tmp_path}/killed"], stdout=subprocess.DEVNULL)
        time.sleep(wait)
        if started.poll() is None:
            os.kill(started.pid, signal.SIGKILL)
            killed += 1
        started.wait()
    assert killed
    last = subprocess.run([*arguments, f"log_path={tmp_path}/killed"], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert (tmp_path / "killed/teacher.jsonl").read_text() == (tmp_path / "whole/teacher.jsonl").read_text()
    for given, expected in zip(numbers_of(tmp_path / "killed"), numbers_of(tmp_path / "whole"), strict=True):
        assert given == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(68, 102, 108)
def test_without_arguments_it_comes_to_the_numbers_of_its_readme(tmp_path: Path) -> None:
    printed = run_without_arguments("prompt_distillation", tmp_path)
    rows = numbers_of(tmp_path / "run")
    expected = expected_numbers("prompt_distillation")
    before, after, majority, full = expected["agreement with the teacher"]
    assert full == 1.0
    assert rows[0]["eval/agreement"] == pytest.approx(before, abs=0.02)
    assert rows[-1]["eval/agreement"] == pytest.approx(after, abs=0.03)
    assert rows[-1]["teacher/majority"] == pytest.approx(majority, abs=0.02)
    before, after, teachers = expected["right answers"]
    assert rows[0]["eval/accuracy"] == pytest.approx(before, abs=0.02)
    assert rows[-1]["eval/accuracy"] == pytest.approx(after, abs=0.03)
    assert rows[-1]["teacher/accuracy"] == pytest.approx(teachers, abs=0.02)
    before, after = expected["NLL of the teacher's answers"]
    assert rows[0]["test/nll"] == pytest.approx(before, rel=0.05)
    assert rows[-1]["test/nll"] == pytest.approx(after, abs=0.02)
    assert "│ tokens of a prompt           │ 25" in printed
