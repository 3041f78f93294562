"""demo, chat and checkpoint, on the embedded service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tinsmith
from tinsmith import embedded
from tinsmith.cli import chat as chat_command
from tinsmith.cli.chat_commands import COMMANDS
from tinsmith.cli.main import app
from tinsmith.cookbook.chat import Chat
from tinsmith.models import path as shipped_path

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
    tokenizer = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", *tokenizer]
    assert sorted(file.name for file in folder.iterdir()) == files
    # The tiny model's adapter acts on the output projection: that, and what loads it all the same, is said.
    told = dict(line.split(":", 1) for line in result.stdout.splitlines()[1:])
    assert list(told) == ["PEFT", "vLLM", "SGLang", "merged"]
    assert told["vLLM"].strip().startswith("no: it adapts the output projection (lm_head)")
    card = (folder / "README.md").read_text()
    assert "rank 4, alpha 32, on attention, MLP, output projection." in card
    assert saved[which] in card
    from transformers import AutoTokenizer

    text = "copy: abc"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(shipped_path())(text)["input_ids"]
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
    assert "`tinsmith-tiny` with the LoRA adapter" in (whole / "README.md").read_text()
    assert result.stdout.splitlines()[1:] == [
        f'transformers: AutoModelForCausalLM.from_pretrained("{whole}")',
        f"vLLM:         vllm serve {whole}",
        f"SGLang:       python -m sglang.launch_server --model-path {whole}",
        f"tinsmith:     tinsmith chat {whole}",
    ]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole)
    assert model.dtype == model.lm_head.weight.dtype
    assert str(model.dtype) == "torch.float32"
    assert AutoTokenizer.from_pretrained(whole).chat_template
    said = runner.invoke(app, ["chat", str(whole), "--temperature", "0", "--max-tokens", "8"], input="copy: abc\n")
    assert said.stdout.splitlines()[-1] == Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=8).say(
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


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Let these lines be typed, then the end of the input; a class of exceptions stands for the key that raises it."""
    rest = iter([*lines, EOFError])

    def read(prompt: str) -> str:
        line = next(rest)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def test_a_chat_goes_on_until_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "copy: ab", "  ", "again")
    chat = Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=6, system="be brief")
    chat_command.converse(chat)
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    answers = [str(message["content"]) for message in chat.messages if message["role"] == "assistant"]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers) + "\n"


def test_a_chat_has_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tools, saved = tmp_path / "tools.json", tmp_path / "said.jsonl"
    function = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": function}
    tools.write_text(json.dumps([tool]))
    typed(
        monkeypatch,
        *("/save", "/help", "/system be brief", "/temperature 0", f"/tools {tools}", "copy: ab", f"/save {saved}"),
        *("/reset", "/system", "/tools none", "/system none", "/temperature", "/temperature nan", "/rest", "/reset x"),
        *("/tools nowhere.json", "//copy: /a", "/exit", "never read"),
    )
    chat = Chat.open(base_model="tinsmith-tiny", max_tokens=6)
    chat_command.converse(chat)
    said, errors = capsys.readouterr()
    for name in COMMANDS:
        assert f"/{name}" in said
    told = said[said.index("system: ") :].splitlines()
    assert told[:3] == ["system: be brief", "temperature: 0", "tools: add"]
    after = told.index(f"saved to {saved}") + 1
    assert told[after : after + 5] == [
        "what was said is forgotten; the system message stays",
        "system: be brief",
        "no tools",
        "no system message",
        "temperature: 0",
    ]
    row = json.loads(saved.read_text())
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["tools"] == [tool]
    assert all("tokens" not in message for message in row["messages"])
    assert errors.splitlines() == [
        "error: /save: nothing was said yet",
        "error: /temperature: got 'nan', expected a number, 0 or more",
        "error: there is no command /rest (did you mean /reset?); /help lists them, and // begins a message with a "
        "slash",
        "error: /reset: got 'x', expected nothing behind it",
        "error: tools: got 'nowhere.json', expected a JSON file that can be read (No such file or directory)",
    ]
    assert chat.messages[0] == {"role": "user", "content": "/copy: /a"}


def test_ctrl_c_stops_an_answer_and_twice_leaves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat.open(base_model="tinsmith-tiny", temperature=0.0, max_tokens=6)
    add = chat.add

    def stopped(*messages: Any) -> Any:
        if messages[0]["content"] == "stop":
            raise KeyboardInterrupt
        return add(*messages)

    monkeypatch.setattr(chat, "add", stopped)
    typed(monkeypatch, "stop", "copy: ab", KeyboardInterrupt, "copy: ab", "stop", KeyboardInterrupt, "never read")
    chat_command.converse(chat)
    assert [message["content"] for message in chat.messages[::2]] == ["copy: ab", "copy: ab"]
    said = capsys.readouterr().out
    assert said.count("stopped; Ctrl-C again leaves") == 2
    assert said.count("Ctrl-C again leaves, so does Ctrl-D") == 1


def test_whoever_chats_gives_the_results_of_tools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat.open(base_model="tinsmith-tiny", max_tokens=6)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}, "id": "c1"}
    answers = iter([{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "assistant", "content": "2"}])
    given: list[Any] = []
    monkeypatch.setattr(chat, "add", lambda *messages: given.extend(messages) or next(answers))
    typed(monkeypatch, "1+1?", "two")
    chat_command.converse(chat)
    assert given[1] == {"role": "tool", "name": "add", "content": "two", "tool_call_id": "c1"}
    assert capsys.readouterr().out == 'calls {"name": "add", "arguments": {"a": 1}}\n2\n\n'


def test_an_adapter_is_pointed_to_the_import(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')
    result = runner.invoke(app, ["chat", str(tmp_path)], input="hi")
    assert result.exit_code == 1
    assert f"tinsmith checkpoint import {tmp_path} --base-model Qwen/Qwen3-8B" in result.output


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
