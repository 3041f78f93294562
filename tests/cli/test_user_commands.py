"""demo, chat and checkpoint, on the embedded service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tinsmith
from tinsmith import embedded
from tinsmith.cli import chat as chat_command
from tinsmith.cli.main import app
from tinsmith.cookbook.chat import Chat

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def saved() -> tuple[str, str]:
    """The addresses of a state and of weights for sampling, of one run that took no step."""
    training = tinsmith.ServiceClient().create_lora_training_client("tinsmith-tiny", rank=4)
    return training.save_state("here").result().path, training.save_weights_for_sampler("there").result().path


@pytest.mark.row(214)
def test_checkpoints_of_the_embedded_service_are_listed_newest_first(
    saved: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each test has a home of its own, and the embedded service that of the test which came first.
    running = embedded._running
    assert running is not None
    monkeypatch.setenv("TINSMITH_HOME", str(running.service.core.data_folder.root))
    state, sampler = saved
    listed = json.loads(runner.invoke(app, ["checkpoint", "list", "--json", "--limit", "0"]).output)
    assert [row["tinker_path"] for row in listed if row["tinker_path"] in saved] == [sampler, state]
    assert state in runner.invoke(app, ["run", "info", state.split("/")[2]]).output


@pytest.mark.row(217)
@pytest.mark.parametrize("which", [0, 1], ids=["state", "sampler"])
def test_a_checkpoint_is_exported_as_a_peft_folder(which: int, saved: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    result = runner.invoke(app, ["checkpoint", "export", saved[which], str(folder)])
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    assert (config.peft_type, config.r) == ("LORA", 4)  # pyright: ignore[reportAttributeAccessIssue]

    again = runner.invoke(app, ["checkpoint", "export", saved[which], str(folder)])
    assert again.exit_code == 1
    assert again.output.startswith(f"error: folder: got '{folder}', expected an empty folder")


@pytest.mark.row(217)
def test_a_checkpoint_goes_out_whole_and_an_adapter_comes_in(saved: tuple[str, str], tmp_path: Path) -> None:
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    result = runner.invoke(app, ["checkpoint", "export", saved[0], str(whole), "--merged", "--dtype", "fp32"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == [
        f'transformers: AutoModelForCausalLM.from_pretrained("{whole}")',
        f"vLLM:         vllm serve {whole}",
        f"tinsmith:     tinsmith chat {whole}",
    ]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole)
    assert model.dtype == model.lm_head.weight.dtype
    assert str(model.dtype) == "torch.float32"
    assert AutoTokenizer.from_pretrained(whole).chat_template
    said = runner.invoke(app, ["chat", str(whole), "--temperature", "0", "--max-tokens", "8"], input="copy: abc\n")
    assert said.output.splitlines()[-1] == Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=8).say(
        "copy: abc"
    )

    assert runner.invoke(app, ["checkpoint", "export", saved[1], str(adapter)]).exit_code == 0
    result = runner.invoke(
        app, ["checkpoint", "import", str(adapter), "--base-model", "tinsmith-tiny", "--name", "again"]
    )
    assert result.exit_code == 0, result.output
    state, sampler, *advice = result.output.splitlines()
    assert state.endswith("/weights/again")
    assert sampler.endswith("/sampler_weights/again")
    assert advice == [
        f'train on: service.create_training_client_from_state("{state}")',
        f"recipes:  load_checkpoint_path={state}",
        f"chat:     tinsmith chat {sampler}",
    ]
    # A PEFT folder is merged as well as a checkpoint, and its name for the base is found.
    local = runner.invoke(app, ["checkpoint", "export", str(adapter), str(tmp_path / "local"), "--merged"])
    assert local.exit_code == 0, local.output
    assert json.loads((tmp_path / "local" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["export", "tinker://r/weights/x", "OUT", "--dtype", "bf16"],
            "--dtype: got 'bf16', expected it with --merged",
        ),
        (["export", "tinker://r/weights/x", "OUT", "--base", "b"], "--base: got 'b', expected it with --merged only"),
        (
            ["export", "tinker://r/weights/x", "OUT", "--merged", "--dtype", "int8"],
            "dtype: got 'int8', expected one of",
        ),
        (
            ["export", "OUT", "OUT/new", "--merged"],
            "adapter: got 'OUT', expected a PEFT folder with adapter_config.json",
        ),
        (["import", "OUT", "--base-model", "tinsmith-tiny"], "folder: got 'OUT', expected a PEFT folder with adapter"),
    ],
)
def test_what_makes_no_sense_is_named(command: list[str], expected: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = runner.invoke(app, ["checkpoint", *(part.replace("OUT", out) for part in command)])
    assert result.exit_code == 1
    assert expected.replace("OUT", out) in result.output
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    for path, expected in (
        ("tinker://nobody:train:0/weights/x", "expected a checkpoint of yours or a published one"),
        ("weights/x", "expected tinker://RUN/weights/NAME"),
    ):
        result = runner.invoke(app, ["checkpoint", "export", path, str(tmp_path / "adapter")])
        assert result.exit_code == 1
        assert expected in result.output
        assert not list(tmp_path.iterdir())


@pytest.mark.row(214)
def test_a_piped_message_is_answered_once(saved: tuple[str, str]) -> None:
    result = runner.invoke(app, ["chat", saved[1], "--temperature", "0", "--max-tokens", "8"], input="copy: abc\n")
    assert result.exit_code == 0, result.output
    expected = Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=8).say("copy: abc")
    assert result.output == expected + "\n"

    empty = runner.invoke(app, ["chat"], input="")
    assert empty.exit_code == 1
    assert "expected a message on standard input" in empty.output


def test_a_chat_goes_on_until_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Iterator[str] = iter(["copy: ab", "  ", "again"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    chat = Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=6, system="be brief")
    chat_command._converse(chat)
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    answers = [str(message["content"]) for message in chat.messages if message["role"] == "assistant"]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers) + "\n"


def test_an_unknown_model_is_refused() -> None:
    result = runner.invoke(app, ["chat", "/nowhere/at/all"], input="hi")
    assert result.exit_code == 1
    assert "'/nowhere/at/all'" in result.output


@pytest.mark.row(64)
def test_the_demo_shows_and_saves_everything(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Hello\ngoodbye\napple\nq\n")
    out = tmp_path / "run"
    result = runner.invoke(app, ["demo", "--eval", str(words), "--steps", "3", "--seed", "5", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "demo.json", "loss.png"]
    summary = json.loads((out / "demo.json").read_text())
    assert (summary["words"], summary["steps"], summary["seed"]) == (4, 3, 5)
    assert summary["trivial"] == 0.25  # q → qay
    assert len(summary["losses"]) == 3
    assert f"tinsmith chat {summary['checkpoint']}" in result.output
    for shown in ("before:", "base model", "trivial baseline", "tuned", "loss (nats per answer token)", "step 3/3"):
        assert shown in result.output
    assert (out / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.row(64)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_demo_learns_pig_latin(seed: int, tmp_path: Path) -> None:
    result = runner.invoke(app, ["demo", "--seed", str(seed), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run" / "demo.json").read_text())
    assert summary["before"] < 0.05
    assert summary["trivial"] < 0.05
    assert summary["after"] >= 0.95
    assert summary["seconds"] < 120
