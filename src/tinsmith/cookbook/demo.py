"""`tinsmith demo`: the embedded model learns pig latin, before your eyes and with the SDK alone."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import tinsmith
from tinsmith.cookbook.answers import accuracy
from tinsmith.cookbook.batches.batch import Batches
from tinsmith.cookbook.batches.loss_metrics import compute_mean_nll
from tinsmith.cookbook.completers import sample_answers
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.plots import save_curve, terminal_curve
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.schedules import rate_share
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

# With these the demo trains for half a minute on two CPU cores, and gets nearly all held-out words right.
RANK = 32
BATCH_SIZE = 32
STEPS = 150
LEARNING_RATE = 4e-3
TRAIN_WORDS = 6000
TEST_WORDS = 200
_SHOWN = 6
# Steps whose operations are submitted before the first of them is waited for.
_IN_FLIGHT = 2


@dataclass(frozen=True)
class DemoResult:
    """What a demo measured; `demo.json` holds the same.

    Attributes:
        before, trivial, after: exact match on the test words of the base model, of appending "ay" alone, and of the
            tuned model.
        words: test words.
        steps: optimizer steps.
        losses: mean NLL per answer token, one per step.
        seconds: whole time; `train_seconds` that of training alone.
        checkpoint: the `tinker://` path of the tuned weights.
        adapter_folder: the same as a PEFT folder.
    """

    model: str
    seed: int
    words: int
    steps: int
    before: float
    trivial: float
    after: float
    losses: list[float]
    train_seconds: float
    seconds: float
    checkpoint: str
    adapter_folder: str


def run_demo(
    *,
    eval_file: Path | None = None,
    seed: int = 0,
    steps: int = STEPS,
    base_url: str | None = None,
    folder: Path | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Train, evaluate before and after, show and save everything.

    Args:
        eval_file: somebody's words, one per line; None draws held-out words.
        seed: of the words, the adapter and the order.
        steps: optimizer steps.
        base_url: the service; None takes `TINSMITH_BASE_URL`, else the embedded one.
        folder: where curve, adapter and `demo.json` go; None makes `runs/demo-DATE-TIME`.
        console: where to print.

    Raises:
        UserError: the file of words is not well formed, or `steps` is not positive.
    """
    started = time.perf_counter()
    console = console or Console()
    if steps < 1:
        raise invalid("steps", steps, "at least 1")
    test = pig_latin.read_words(eval_file) if eval_file else pig_latin.draw_words("held_out", TEST_WORDS, seed)
    # Somebody's own words may be in the training split: then they are left out of it.
    train = pig_latin.draw_words("train", TRAIN_WORDS, seed, exclude=test)
    folder = folder or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)

    console.print(f"[bold]{EMBEDDED_MODEL} learns pig latin[/]: hello → ellohay, apple → ppleaay")
    service = tinsmith.ServiceClient(base_url=base_url)
    training = service.create_lora_training_client(EMBEDDED_MODEL, rank=RANK, seed=seed)
    renderer = renderer_of(EMBEDDED_MODEL, training.get_tokenizer())

    base = service.create_sampling_client(base_model=EMBEDDED_MODEL)
    before = _translate(base, renderer, test)
    expected = [pig_latin.pig_latin(word) for word in test]
    console.print(f"before: {accuracy(before, expected):.1%} of {len(test)} words it will never train on")
    for word, answer in list(zip(test, before, strict=True))[:3]:
        console.print(f"  {pig_latin.prompt(word)} → {answer!r}", markup=False, highlight=False)

    train_started = time.perf_counter()
    rows = pig_latin.rows(train)
    batches = Batches(rows, renderer, training.get_tokenizer(), batch_size=BATCH_SIZE, seed=seed)
    losses = _train(training, batches, steps, console)
    train_seconds = time.perf_counter() - train_started
    console.print(terminal_curve(losses, "loss (nats per answer token)"), markup=False, highlight=False)
    save_curve(losses, folder / "loss.png", title=f"{EMBEDDED_MODEL}: pig latin", ylabel="loss, nats per answer token")

    checkpoint = training.save_weights_for_sampler("pig-latin").result().path
    after = _translate(service.create_sampling_client(model_path=checkpoint), renderer, test)
    adapter_folder = folder / "adapter"
    tinsmith.RestClient(base_url=base_url).download_checkpoint(checkpoint, adapter_folder).result()
    result = DemoResult(
        model=EMBEDDED_MODEL,
        seed=seed,
        words=len(test),
        steps=steps,
        before=accuracy(before, expected),
        # The yardstick that costs nothing: who does only this has learned no pig latin.
        trivial=accuracy([f"{word}ay" for word in test], expected),
        after=accuracy(after, expected),
        losses=losses,
        train_seconds=train_seconds,
        seconds=time.perf_counter() - started,
        checkpoint=checkpoint,
        adapter_folder=str(adapter_folder),
    )
    (folder / "demo.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    _show(console, result, folder, base_url, list(zip(test, before, after, expected, strict=True)))
    return result


def _translate(sampler: tinsmith.SamplingClient, renderer: Renderer, words: Sequence[str]) -> list[str]:
    questions = [pig_latin.row(word)["messages"][:1] for word in words]
    # A token is a letter here. Twice the word leaves room for a wrong answer to show what is wrong with it.
    return sample_answers(sampler, renderer, questions, max_tokens=2 * max(map(len, words)) + 4)


def _train(training: tinsmith.TrainingClient, batches: Batches, steps: int, console: Console) -> list[float]:
    """Train with a linearly falling learning rate; return the mean NLL of each step."""
    losses: list[float] = []
    submitted: deque[tuple[list[tinsmith.Datum], Any, Any]] = deque()
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=steps, loss=float("nan"))
        # The last turns submit nothing and wait for what is still in flight.
        for step in range(steps + _IN_FLIGHT - 1):
            if step < steps:
                batch = batches.get(step).datums
                adam = tinsmith.AdamParams(learning_rate=LEARNING_RATE * rate_share("linear", step, steps))
                submitted.append((batch, training.forward_backward(batch, "cross_entropy"), training.optim_step(adam)))
            if len(submitted) == _IN_FLIGHT or step >= steps:
                batch, forward_backward, optim_step = submitted.popleft()
                outputs = forward_backward.result().loss_fn_outputs
                optim_step.result()
                losses.append(
                    compute_mean_nll(
                        [output["logprobs"] for output in outputs], [d.loss_fn_inputs["weights"] for d in batch]
                    )
                )
                progress.update(task, advance=1, loss=losses[-1])
                if not console.is_terminal and len(losses) % max(1, steps // 10) == 0:
                    console.print(f"step {len(losses)}/{steps}  loss {losses[-1]:.3f}")
    return losses


def _show(
    console: Console, result: DemoResult, folder: Path, base_url: str | None, rows: list[tuple[str, str, str, str]]
) -> None:
    samples = Table("word", "before", "after", "", title="held-out words")
    for word, before, after, expected in rows[:_SHOWN]:
        samples.add_row(word, repr(before)[1:-1], repr(after)[1:-1], "✓" if after == expected else f"≠ {expected}")
    console.print(samples)
    scores = Table("exact match", f"{result.words} held-out words", title="pig latin")
    scores.add_row("base model", f"{result.before:.1%}")
    scores.add_row('append "ay" (trivial baseline)', f"{result.trivial:.1%}")
    scores.add_row("[bold]tuned[/]", f"[bold]{result.after:.1%}[/]")
    console.print(scores)
    for label, value in (
        ("checkpoint", result.checkpoint),
        ("PEFT folder", result.adapter_folder),
        ("loss curve", folder / "loss.png"),
        ("summary", folder / "demo.json"),
        ("chat with it", f"tinsmith chat {result.checkpoint}" + (f" --base-url {base_url}" if base_url else "")),
    ):
        console.print(f"{label:<14}{value}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"{'time':<14}{result.seconds:.1f} s, training {result.train_seconds:.1f} s of them")
