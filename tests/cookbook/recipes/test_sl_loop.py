"""The supervised loop: on checkpoints of every family, taken up again, as a file and as a module."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch

import tinsmith
from tests.support.checkpoints import checkpoint
from tinsmith.cookbook.recipes import sl_loop
from tinsmith.cookbook.recipes.sl_loop import Config
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.supervised import load_rows, row_to_datums
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import train
from tinsmith.types.errors import UserError

COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "gold")
SCRIPT = Path(sl_loop.__file__)


def write_conversations(folder: Path) -> Path:
    """Write 64 conversations in two forms, some of them with two turns."""
    lines = []
    for number in range(64):
        first, second = COLOURS[number % 8], COLOURS[(number * 3 + number // 8) % 8]
        messages = [
            {"role": "user", "content": f"mix {first}, {second}"},
            {"role": "assistant", "content": f"a {first} {second}"},
        ]
        if number % 4 == 0:
            messages += [{"role": "user", "content": "again"}, {"role": "assistant", "content": f"a {second} {first}"}]
        lines.append(json.dumps({"messages": messages, "category": "colours"}))
    path = folder / "conversations.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def data_of(config: Config) -> list[tinsmith.Datum]:
    tokenizer = tinsmith.get_tokenizer(config.model_name)
    renderer = get_renderer("chat_template", tokenizer)
    assert config.data is not None
    rows = load_rows(config.data)
    assert isinstance(rows, Sequence)
    return [datum for row in rows for datum in row_to_datums(row, renderer, tokenizer)]


def unigram_entropy(data: list[tinsmith.Datum]) -> float:
    """Entropy in nats of the learned tokens as independent draws."""
    counts: Counter[int] = Counter()
    for datum in data:
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        counts.update(targets[datum.loss_fn_inputs["weights"].to_numpy() > 0].tolist())
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def metrics_of(config: Config) -> list[dict[str, Any]]:
    assert config.log_path is not None
    return [json.loads(line) for line in (Path(config.log_path) / "metrics.jsonl").read_text().splitlines()]


def final_of(config: Config) -> dict[str, Any]:
    assert config.log_path is not None
    rows = [json.loads(line) for line in (Path(config.log_path) / "checkpoints.jsonl").read_text().splitlines()]
    return next(row for row in rows if row["kind"] == "final")


def config_for(family: str, folder: Path, **fields: Any) -> Config:
    settings: dict[str, Any] = {
        "model_name": str(checkpoint(family)),
        "data": str(write_conversations(folder)),
        "batch_size": 16,
        "learning_rate": 1e-2,
        "lora_rank": 8,
        "max_steps": 40,
        "save_every": 0,
        "log_path": str(folder / "run"),
    }
    return Config(**(settings | fields))


def peft_logprobs(folder: str, adapter: Path, data: list[tinsmith.Datum]) -> list[np.ndarray[Any, Any]]:
    """Logprobs of the target tokens by plain transformers and PEFT, in fp32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    found = []
    with torch.no_grad():
        for datum in data:
            logits = model(torch.tensor([datum.model_input.to_ints()])).logits[0]
            targets = datum.loss_fn_inputs["target_tokens"].to_torch()
            found.append(torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0].numpy())
    return found


def check_learns_and_exports(family: str, folder: Path) -> None:
    config = config_for(family, folder)
    sl_loop.main(config)
    data = data_of(config)
    losses = [row["train/nll"] for row in metrics_of(config)]
    assert len(losses) == 40
    assert losses[0] > unigram_entropy(data) > losses[-1]

    final = final_of(config)
    adapter = tinsmith.RestClient().download_checkpoint(final["sampler_path"], folder / "adapter").result()
    assert sorted(file.name for file in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    training = tinsmith.ServiceClient().create_training_client_from_state(final["state_path"])
    ours = [o["logprobs"].to_numpy() for o in training.forward(data[:6], "cross_entropy").result().loss_fn_outputs]
    for given, expected in zip(ours, peft_logprobs(config.model_name, adapter, data[:6]), strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-4)


@pytest.mark.row(57, 59, 61, 62)
def test_llama_learns_conversations_and_its_adapter_loads_in_peft(tmp_path: Path) -> None:
    check_learns_and_exports("llama", tmp_path)


@pytest.mark.slow
@pytest.mark.row(57, 59, 61, 62)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe"])
def test_every_family_learns_conversations_and_its_adapter_loads_in_peft(family: str, tmp_path: Path) -> None:
    check_learns_and_exports(family, tmp_path)


@pytest.mark.row(60, 110)
def test_a_stopped_run_carries_on_as_if_it_had_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"max_steps": 7, "save_every": 2}
    whole = config_for("llama", tmp_path, log_path=str(tmp_path / "whole"), **fields)
    sl_loop.main(whole)

    stopped = config_for("llama", tmp_path, log_path=str(tmp_path / "stopped"), **fields)
    log_metrics = Run.log_metrics

    def stop_after_five(self: Run, step: int, metrics: Any) -> None:
        log_metrics(self, step, metrics)
        if step == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log_metrics", stop_after_five)
        with pytest.raises(KeyboardInterrupt):
            sl_loop.main(stopped)
    assert [row["step"] for row in metrics_of(stopped)] == [0, 1, 2, 3, 4]
    sl_loop.main(stopped)
    assert "after step 4" in capsys.readouterr().out
    assert [row["step"] for row in metrics_of(stopped)] == list(range(7))
    for given, expected in zip(metrics_of(stopped), metrics_of(whole), strict=True):
        timeless = {name: value for name, value in expected.items() if not name.startswith("time/")}
        assert {name: given[name] for name in timeless} == timeless

    sl_loop.main(stopped)
    assert "is finished" in capsys.readouterr().out


def test_bad_data_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, line 1: messages: got 'roles user'"):
        sl_loop.main(config_for("llama", tmp_path, data=str(bad)))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_it_learns_conversations_and_says_who_takes_other_rows(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "once upon a time"}\n')
    with pytest.raises(UserError, match=r"texts.jsonl, line 1: row: got \['text'\], expected a conversation.*sl_basic"):
        sl_loop.main(config_for("llama", tmp_path, data=str(texts)))


@pytest.mark.row(110)
def test_a_run_of_the_time_when_it_could_hold_rows_out_is_taken_up_again(tmp_path: Path) -> None:
    fields = {"max_steps": 2, "save_every": 1}
    sl_loop.main(config_for("llama", tmp_path, **fields))
    written = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps({**written, "held_out": 0}))
    sl_loop.main(config_for("llama", tmp_path, **{**fields, "max_steps": 3}))
    assert len(metrics_of(config_for("llama", tmp_path))) == 3
    (tmp_path / "run/config.json").write_text(json.dumps({**written, "held_out": 8}))
    with pytest.raises(UserError, match="held_out: got None, expected 8"):
        sl_loop.main(config_for("llama", tmp_path, **{**fields, "max_steps": 4}))


@pytest.mark.row(59)
def test_its_batches_are_those_of_the_trainer(tmp_path: Path) -> None:
    """The order of the rows, tools and cutting included, is the same, so that its losses are."""
    config = config_for("llama", tmp_path, max_steps=5, epochs=2, max_length=40)
    sl_loop.main(config)
    shared = {**chz.asdict(config), "log_path": str(tmp_path / "trainer"), "eval_every": 0}
    train(SupervisedConfig(**shared, lr_schedule="constant"), "trainer")
    rows = [json.loads(line) for line in (tmp_path / "trainer/metrics.jsonl").read_text().splitlines()]
    for given, expected in zip(metrics_of(config), rows[:5], strict=True):
        assert given["train/nll"] == pytest.approx(expected["train/nll"], rel=1e-5)
        assert given["train/tokens"] == expected["train/tokens"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("batch_size", 0, "at least 1"),
        ("epochs", 0, "at least 1"),
        ("max_steps", 0, "at least 1"),
        ("max_length", 1, "at least 2"),
        ("lora_rank", 0, "1 to 256"),
        ("save_every", -1, "at least 0"),
        ("learning_rate", 0.0, "a finite number above 0"),
        ("learning_rate", float("nan"), "a finite number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused_and_never_replaced(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{field}: got {value}, expected {expected}"):
        sl_loop.Config(**{field: value})


def run_script(*arguments: str, module: bool = False, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    how = ["-m", "tinsmith.cookbook.recipes.sl_loop"] if module else [str(SCRIPT)]
    return subprocess.run([sys.executable, *how, *arguments], capture_output=True, text=True, cwd=folder)


@pytest.mark.row(22, 57, 103, 104)
def test_the_script_is_short_and_names_the_nearest_setting() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 125
    assert SCRIPT.read_text().count("conversation_to_datum(") == 1
    done = run_script("lerning_rate=5e-5")
    assert done.returncode == 2
    assert "did you mean learning_rate?" in done.stderr
    shown = run_script("--help").stdout
    fields = ("model_name", "learning_rate", "batch_size", "lora_rank", "train_on_what", "log_path", "wandb_project")
    for field in fields:
        assert field in shown


@pytest.mark.row(22, 57, 64, 108)
@pytest.mark.slow
@pytest.mark.parametrize("module", [False, True], ids=["file", "module"])
def test_the_script_runs_as_file_and_as_module(module: bool, tmp_path: Path) -> None:
    arguments = ["model_name=tinsmith-tiny", "learning_rate=5e-5", "batch_size=8", "max_steps=2", "log_path=run"]
    done = run_script(*arguments, module=module, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout
    assert "chat with it: tinsmith chat tinker://" in done.stdout


@pytest.mark.row(57)
def test_the_script_refuses_what_it_cannot_read_in_one_line(tmp_path: Path) -> None:
    refused = run_script("data=nowhere.jsonl", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("sl_loop: data: got 'nowhere.jsonl', expected a ")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(22, 101, 108)
@pytest.mark.parametrize("recipe", ["sl_loop", "sl_basic"])
def test_recipes_run_to_the_end_without_arguments(recipe: str, tmp_path: Path) -> None:
    script = SCRIPT.with_name(f"{recipe}.py")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # The time of the processor: what a quiet machine takes with one thread, whatever else this one does.
    assert after.ru_utime - before.ru_utime < 300
    (run,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[99]["train/nll"] < rows[0]["train/nll"]
    if recipe == "sl_basic":
        assert rows[0]["eval/pig_latin"] < 0.05
        assert rows[-1]["eval/pig_latin"] >= 0.95
