"""Inspect AI: tasks on a model and on a checkpoint, settings honoured or refused, tools, and the command."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import ToolFunction, ToolInfo, ToolParams
from inspect_ai.util import JSONSchema

import tinsmith
from tests.cookbook.eval.inspect_tasks import WORDS
from tests.cookbook.eval.tuned import context_of, service_in, tune
from tinsmith.cookbook.eval import inspect_provider, run_inspect
from tinsmith.cookbook.eval.inspect_messages import from_inspect
from tinsmith.cookbook.eval.inspect_tasks import InspectEvaluator
from tinsmith.cookbook.runs.command import parse
from tinsmith.types.errors import TinsmithError, UserError

TASKS = Path(__file__).with_name("inspect_tasks.py")
ASKED = [ChatMessageUser(content="reverse: hello")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinsmith.ServiceClient]:
    with service_in(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(scope="module")
def model(service: tinsmith.ServiceClient) -> Model:
    assert inspect_provider.PROVIDER == "tinsmith"
    context = context_of(service)
    return get_model(
        "tinsmith/tinsmith-tiny", memoize=False, sampling_client=context.base_client, renderer=context.renderer
    )


def ask(model: Model, messages: list[ChatMessage] | list[ChatMessageUser] = ASKED, **settings: Any) -> ModelOutput:
    tools = settings.pop("tools", [])
    choice = settings.pop("tool_choice", "auto")
    return asyncio.run(model.api.generate(list(messages), tools, choice, GenerateConfig(**settings)))  # type: ignore[arg-type]


@pytest.mark.row(63)
def test_a_task_runs_offline_on_the_weights_as_they_are(service: tinsmith.ServiceClient, tmp_path: Path) -> None:
    logger = logging.getLogger()
    before = (logger.level, list(logger.handlers))
    evaluator = InspectEvaluator(f"{TASKS}@copying", max_tokens=32, log_dir=tmp_path)
    assert evaluator(context_of(service)) == {
        "eval/copying/exact/mean": 1.0,
        "eval/copying/exact/stderr": 0.0,
        "eval/copying/match/accuracy": 1.0,
        "eval/copying/match/stderr": 0.0,
    }
    (log,) = [read_eval_log(info) for info in list_eval_logs(str(tmp_path))]
    assert (log.eval.model, log.status, len(log.samples or [])) == ("tinsmith/tinsmith-tiny", "success", 4)
    # Inspect sets up logging of its own; that of a training run goes on as it was.
    assert (logger.level, list(logger.handlers)) == before
    wrong = InspectEvaluator(f"{TASKS}@copying", task_args={"verb": "reverse"}, max_tokens=32, limit=2)
    assert wrong(context_of(service))["eval/copying/exact/mean"] == 0.0


@pytest.mark.row(63, 112)
def test_it_is_the_tuned_weights_that_are_asked(service: tinsmith.ServiceClient) -> None:
    context = context_of(service, tune(service))
    found = InspectEvaluator(f"{TASKS}@copying", max_tokens=32)(context)
    answers = context.answers([[{"role": "user", "content": f"copy: {word}"}] for word in WORDS], max_tokens=32)
    right = sum(answer == word for answer, word in zip(answers, WORDS, strict=True))
    assert right < len(WORDS), "pig latin alone makes it forget"
    assert found["eval/copying/exact/mean"] == right / len(WORDS)


@pytest.mark.row(63)
def test_a_model_with_tools_calls_them_and_reads_their_answers(service: tinsmith.ServiceClient, tmp_path: Path) -> None:
    found = InspectEvaluator(f"{TASKS}@looking_up", max_tokens=64, log_dir=tmp_path)(context_of(service))
    assert found["eval/looking_up/exact/mean"] == 1.0
    (log,) = [read_eval_log(info) for info in list_eval_logs(str(tmp_path))]
    for sample in log.samples or []:
        assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "assistant"]
        called = sample.messages[1]
        assert isinstance(called, ChatMessageAssistant)
        assert called.tool_calls is not None
        assert called.tool_calls[0].function == "lookup"
        assert sample.output.stop_reason == "stop"


def test_an_answer_comes_with_reason_usage_and_logprobs(model: Model) -> None:
    output = ask(model, temperature=0.0, max_tokens=32, logprobs=True, top_logprobs=3)
    assert (output.completion, output.stop_reason) == ("olleh", "stop")
    assert output.usage is not None
    # One token per byte: "reverse: hello" between <|user|>, <|end|> and <|assistant|>; five letters and <|end|>.
    assert (output.usage.input_tokens, output.usage.output_tokens, output.usage.total_tokens) == (17, 6, 23)
    logprobs = output.choices[0].logprobs
    assert logprobs is not None
    assert "".join(one.token for one in logprobs.content[:5]) == "olleh"
    for one in logprobs.content:
        assert one.top_logprobs is not None
        # Greedy: the token that was taken is the likeliest.
        assert one.top_logprobs[0].token == one.token
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-4)
        assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1.0 + 1e-4
    assert ask(model, temperature=0.0).choices[0].logprobs is None


def test_a_model_is_opened_by_its_name_or_by_the_path_of_its_weights() -> None:
    training = tinsmith.ServiceClient().create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
    path = training.save_weights_for_sampler("untrained").result().path
    for name in ("tinsmith-tiny", path):
        output = ask(get_model(f"tinsmith/{name}", memoize=False), temperature=0.0, max_tokens=32)
        assert (output.model, output.completion) == (name, "olleh")
    with pytest.raises(UserError, match=r"model: got 'tinker://x'"):
        ask(get_model("tinsmith/tinker://x", memoize=False))


def test_length_and_stop_sequences_end_an_answer(model: Model) -> None:
    short = ask(model, temperature=0.0, max_tokens=2)
    assert (short.completion, short.stop_reason) == ("ol", "max_tokens")
    stopped = ask(model, temperature=0.0, max_tokens=32, stop_seqs=["le", "zzz"])
    assert (stopped.completion, stopped.stop_reason) == ("ol", "stop")


def test_seeds_repeat_and_epochs_differ(service: tinsmith.ServiceClient) -> None:
    context = context_of(service)

    def drawn() -> list[list[str]]:
        fresh = get_model(
            "tinsmith/tinsmith-tiny", memoize=False, sampling_client=context.base_client, renderer=context.renderer
        )
        settings: dict[str, Any] = {"temperature": 3.0, "max_tokens": 12, "seed": 5, "num_choices": 2}
        return [[choice.message.text for choice in ask(fresh, **settings).choices] for _ in range(2)]

    first, second = drawn()
    assert drawn() == [first, second]
    assert first != second
    assert len(set(first)) == 2


def test_turns_that_were_sampled_go_back_as_they_were(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[list[int]] = []
    client = model.api._given[0]  # type: ignore[attr-defined]
    sample = client.sample_async

    async def recorded(prompt: Any, *args: Any, **settings: Any) -> Any:
        prompts.append(prompt.to_ints())
        return await sample(prompt, *args, **settings)

    monkeypatch.setattr(client, "sample_async", recorded)
    output = ask(model, temperature=0.0, max_tokens=32)
    kept = output.message
    ask(model, [*ASKED, kept, ChatMessageUser(content="twice: fox")], temperature=0.0, max_tokens=32)
    sampled = [*b"olleh", 257]
    assert prompts[1][: len(prompts[0]) + len(sampled)] == [*prompts[0], *sampled]
    assert kept.metadata == {"tinsmith_tokens": sampled}
    # Whoever rewrites an answer is asked about what is written there.
    changed = kept.model_copy(update={"content": "other"})
    ask(model, [*ASKED, changed, ChatMessageUser(content="twice: fox")], temperature=0.0, max_tokens=32)
    assert bytes(prompts[2][len(prompts[0]) : len(prompts[0]) + 5]) == b"other"


def test_calls_go_back_as_sampled_unless_they_were_changed_and_results_name_theirs(model: Model) -> None:
    parameters = ToolParams(properties={"key": JSONSchema(type="string")}, required=["key"])
    tool = ToolInfo(name="lookup", description="Look up the value of a key.", parameters=parameters)
    output = ask(model, [ChatMessageUser(content="Look up fox.")], tools=[tool], temperature=0.0, max_tokens=64)
    renderer = model.api._given[1]  # type: ignore[attr-defined]
    kept = output.message
    assert kept.tool_calls
    assert from_inspect(kept, renderer)["tokens"] == (kept.metadata or {})["tinsmith_tokens"]
    other = replace(kept.tool_calls[0], arguments={"key": "owl"})
    changed = from_inspect(kept.model_copy(update={"tool_calls": [other]}), renderer)
    assert "tokens" not in changed
    assert changed["tool_calls"][0]["function"]["arguments"] == {"key": "owl"}
    result = ChatMessageTool(content="xof 12", tool_call_id=kept.tool_calls[0].id, function="lookup")
    said = {"role": "tool", "content": "xof 12", "name": "lookup", "tool_call_id": kept.tool_calls[0].id}
    assert from_inspect(result, renderer) == said


def test_what_cannot_be_honoured_is_refused_by_name(model: Model) -> None:
    tool = ToolInfo(name="lookup", description="Look up.", parameters=ToolParams(properties={"key": JSONSchema()}))
    with pytest.raises(UserError, match=r"presence_penalty: got 0.5, expected none"):
        ask(model, presence_penalty=0.5)
    with pytest.raises(UserError, match=r"tool_choice: got .*lookup.*, expected 'auto' or 'none'"):
        ask(model, tools=[tool], tool_choice=ToolFunction("lookup"))
    with pytest.raises(UserError, match=r"content: got 'image', expected text"):
        ask(model, [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA")])])


def test_a_task_that_fails_says_so(service: tinsmith.ServiceClient, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(TASKS.read_text().replace('return f"{key[::-1]} 12"', "raise RuntimeError('no such shelf')"))
    with pytest.raises(TinsmithError, match=r"inspect task looking_up: .*no such shelf"):
        InspectEvaluator(f"{broken}@looking_up", max_tokens=64)(context_of(service))
    with pytest.raises(UserError, match=r"task: got 'nowhere.py@x', expected a file with tasks"):
        InspectEvaluator("nowhere.py@x")


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(UserError, match="inspect-ai: got 'no such package', expected it installed: pip install"):
        InspectEvaluator(str(TASKS))


def test_the_command_evaluates_a_checkpoint(
    service: tinsmith.ServiceClient, capsys: pytest.CaptureFixture[str]
) -> None:
    training = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
    path = training.save_weights_for_sampler("untrained").result().path
    with pytest.MonkeyPatch.context() as patch:
        # The same embedded service, which holds the checkpoint.
        patch.setattr(tinsmith, "ServiceClient", lambda base_url: service)
        config = parse(run_inspect.Config, [f"task={TASKS}@copying", f"model_path={path}", "limit=2", "max_tokens=32"])
        metrics = run_inspect.main(config)
        assert metrics["eval/copying/exact/mean"] == 1.0
        assert "eval/copying/exact/mean 1.0000" in capsys.readouterr().out
        with pytest.raises(UserError, match="model_name: got 'other', expected tinsmith-tiny, the base of"):
            run_inspect.main(parse(run_inspect.Config, [f"task={TASKS}", f"model_path={path}", "model_name=other"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model_name=tinsmith-tiny"], "run_inspect: task: got None, expected a file with tasks"),
        (["task=x.py"], "run_inspect: model_name: got None, expected a model's name"),
        (["task=x.py", "model_path=here"], "run_inspect: model_path: got 'here'"),
        (["task=x.py", "model_name=tinsmith-tiny", "task_args={"], "run_inspect: task_args: got '{', expected a JSON"),
        (["taks=x.py"], "did you mean task?"),
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_inspect.run_recipe(run_inspect.main, run_inspect.Config, "run_inspect", arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_file_elsewhere_is_found(
    service: tinsmith.ServiceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inspect takes a file for a pattern below the current folder, and no pattern is absolute."""
    file = tmp_path / "tasks [1]" / "words.py"
    file.parent.mkdir()
    file.write_text(Path(TASKS).read_text())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = InspectEvaluator(file, limit=1, max_tokens=64)(context_of(service))
    assert {"eval/copying/exact/mean", "eval/looking_up/exact/mean"} <= found.keys()


@pytest.mark.slow
def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    command = ["-m", "tinsmith.cookbook.eval.run_inspect", f"task={TASKS}", "model_name=tinsmith-tiny", "max_tokens=64"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "eval/looking_up/exact/mean 1.0000" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_inspects_own_command_finds_the_provider(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text((Path(__file__).parent / "inspect_tasks.py").read_text())
    inspect = Path(sys.executable).parent / "inspect"
    done = subprocess.run(
        [inspect, "eval", "words.py@copying", "--model", "tinsmith/tinsmith-tiny", "--display", "plain"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "1.000" in done.stdout
    assert list((tmp_path / "logs").glob("*.eval"))
