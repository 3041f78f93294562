"""Fine-tuning on conversations: the course's command line, files of one's own, a judge, and the README's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.recipes.expected import expected_numbers, run_without_arguments
from tests.support.checkpoints import checkpoint
from tests.support.live_server import LLAMA, LiveServer
from tinsmith.cookbook.recipes.chat_sl import chat_sl_dataset
from tinsmith.cookbook.recipes.chat_sl.train import Config, main
from tinsmith.cookbook.runs.command import parse
from tinsmith.types.errors import UserError

COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "gold")


def write_conversations(folder: Path, name: str = "data.jsonl") -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"mix {first}, {second}"},
                {"role": "assistant", "content": f"a {first} {second}"},
            ]
        }
        for first in COLOURS
        for second in COLOURS
    ]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbers_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what time measures."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


@pytest.mark.slow
@pytest.mark.row(106)
def test_the_command_line_of_the_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint("qwen3")
    monkeypatch.setenv("TINSMITH_MODELS", f"Qwen/Qwen3-8B={folder}")
    config = parse(Config, ["model_name=Qwen/Qwen3-8B", "batch_size=256", "lora_rank=128"])
    assert (config.model_name, config.batch_size, config.lora_rank) == ("Qwen/Qwen3-8B", 256, 128)

    data = write_conversations(tmp_path)
    command = ["model_name=Qwen/Qwen3-8B", "batch_size=256", "lora_rank=128", f"dataset={data}", "held_out=8"]
    result = main(parse(Config, [*command, "epochs=2", f"log_path={tmp_path}/run"]))
    assert result.steps == 2
    rows = numbers_of(tmp_path / "run")
    assert rows[0]["train/examples"] == 56
    assert rows[-1]["test/nll"] < rows[0]["test/nll"]
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert (kept["recipe"], kept["lora_rank"], kept["data"]) == ("chat_sl", 128, str(data))


@pytest.mark.row(106)
def test_a_real_model_learns_no_robots_by_default_and_pig_latin_where_there_is_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINSMITH_MODELS", f"Qwen/Qwen3-8B={checkpoint('qwen3')}")
    settings = ["model_name=Qwen/Qwen3-8B", "batch_size=8", "max_steps=1", "eval_every=0", f"log_path={tmp_path}/run"]
    main(parse(Config, settings))
    assert json.loads((tmp_path / "run/config.json").read_text())["data"] == "no_robots"
    assert "HuggingFaceH4/no_robots cannot be had" in caplog.text
    # What stands in is no set that anything is known of: its held-out rows give the loss, nothing else is asked.
    assert sorted(numbers_of(tmp_path / "run")[-1]) == ["step", "test/bits_per_byte", "test/nll"]


@pytest.mark.slow
@pytest.mark.row(63, 69, 112)
def test_the_embedded_model_is_asked_what_it_gained_and_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_sl_dataset, "_TEST_WORDS", 24)
    monkeypatch.setattr(chat_sl_dataset, "_GENERAL_ROWS", 26)
    main(parse(Config, ["batch_size=16", "max_steps=12", "held_out=16", "eval_every=0", f"log_path={tmp_path}/run"]))
    after = numbers_of(tmp_path / "run")[-1]
    assert after["step"] == 12
    assert after["eval/pig_latin_win_rate"] >= 0.5
    assert after["forgetting/general/base_accuracy"] >= 0.95
    assert after["forgetting/general/nll_rise"] > 0.0
    assert {"test/nll", "test/bits_per_byte", "eval/pig_latin"} <= set(after)


@pytest.mark.slow
@pytest.mark.row(69)
def test_a_judge_and_a_general_set_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_MODELS", f"judge={checkpoint('llama')}")
    data, general = write_conversations(tmp_path), write_conversations(tmp_path, "general.jsonl")
    settings = [f"dataset={data}", f"general={general}", "judge_model=judge", "held_out=6", "max_tokens=20"]
    settings += ["batch_size=16", "max_steps=1", "eval_every=0", f"log_path={tmp_path}/run"]
    main(parse(Config, settings))
    after = numbers_of(tmp_path / "run")[-1]
    # Random weights give no verdict, and what has none is a tie.
    assert (after["eval/win_rate"], after["eval/win_rate/no_verdict"]) == (0.5, 1.0)
    assert "forgetting/general/nll_rise" in after
    assert "forgetting/general/base_accuracy" not in after
    with pytest.raises(UserError, match="held_out: got 0, expected rows whose answers can be compared"):
        main(parse(Config, [f"dataset={data}", "judge_model=judge", "held_out=0", f"log_path={tmp_path}/none"]))


@pytest.mark.slow
@pytest.mark.row(106)
def test_a_service_at_a_url_gives_the_same_numbers(
    tmp_path: Path, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, general = write_conversations(tmp_path), tmp_path / "general.jsonl"
    general.write_text("".join(data.read_text().splitlines(keepends=True)[:6]))
    settings = [f"model_name={LLAMA}", f"data={data}", f"general={general}", "held_out=8", "batch_size=8"]
    settings += ["max_steps=5", "lora_rank=8", "learning_rate=5e-3", "eval_every=2", "save_every=0"]
    monkeypatch.setenv("TINSMITH_MODELS", f"{LLAMA}={checkpoint('llama')}")
    main(parse(Config, [*settings, f"log_path={tmp_path}/here"]))
    monkeypatch.setenv("TINSMITH_API_KEY", live_server.key)
    main(parse(Config, [*settings, f"base_url={live_server.url}", f"log_path={tmp_path}/there"]))
    here, there = numbers_of(tmp_path / "here"), numbers_of(tmp_path / "there")
    assert [row["step"] for row in here if "test/nll" in row] == [0, 2, 4, 5]
    for given, expected in zip(there, here, strict=True):
        assert given == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(69, 102, 108)
def test_without_arguments_it_comes_to_the_numbers_of_its_readme(tmp_path: Path) -> None:
    printed = run_without_arguments("chat_sl", tmp_path)
    rows, expected = numbers_of(tmp_path / "run"), expected_numbers("chat_sl")
    before, after = rows[0], rows[-1]
    assert after["step"] == 196
    for name, first, last in (
        ("test/nll", 0.2, 0.02),
        ("eval/pig_latin", 0.02, 0.02),
        ("eval/pig_latin_win_rate", 0.001, 0.02),
        # What is forgotten varies most: it is nowhere trained.
        ("forgetting/general/tuned_accuracy", 0.02, 0.2),
        ("forgetting/general/nll_rise", 0.01, 0.8),
    ):
        assert before[name] == pytest.approx(expected[name][0], abs=first), name
        assert after[name] == pytest.approx(expected[name][1], abs=last), name
    assert "chat with it: tinsmith chat tinker://" in printed
