"""Put our renderers beside plain `apply_chat_template(tokenize=True)`, and beside the speed of training.

Same conversations, same tokenizer, same run; ids are compared first. Renderers give weights too, templates do not.

python -m benchmarks.rendering
python -m benchmarks.rendering --tokenizer FOLDER_OR_HUB_ID --renderer qwen3      # of a model of your own
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.common import Column, conditions, show, write_json
from benchmarks.contestants import Job, TinsmithEngine
from benchmarks.engine import race
from tinsmith.cookbook.model_info import get_recommended_renderer_name
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import Batches
from tinsmith.cookbook.words import english_words
from tinsmith.models import path

# How Qwen and Llama 3 split text before merging.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        conversations: rendered per measurement.
        turns: questions of each, and as many answers.
        words: of a message, on average.
        vocab_size: of the tokenizers that are trained here.
        repeats: every number is the median of so many runs, after one that warms up; the sides take turns.
    """

    conversations: int = 200
    turns: int = 3
    words: int = 80
    vocab_size: int = 16_000
    repeats: int = 5


QUICK = Sizes(conversations=4, turns=2, words=8, vocab_size=700, repeats=1)


@dataclass(frozen=True)
class Case:
    """One format to measure: a tokenizer with its chat template, and the renderer of the same format."""

    name: str
    tokenizer: Any
    renderer: str


def text(rng: Random, words: int) -> str:
    """Return sentences of about so many English words, with commas, numbers and line breaks among them."""
    known = english_words()
    parts: list[str] = []
    for _ in range(rng.randint(max(1, words // 2), words * 3 // 2)):
        word = rng.choice(known) if rng.random() < 0.95 else str(rng.randint(0, 2000))
        parts.append(word + rng.choices(["", ",", ".", ".\n\n", ":"], [80, 8, 8, 3, 1])[0])
    return " ".join(parts)


def conversations(sizes: Sizes, seed: int = 0) -> list[list[dict[str, Any]]]:
    """Return conversations of questions and answers."""
    rng = Random(seed)
    roles = ("user", "assistant") * sizes.turns
    return [[{"role": role, "content": text(rng, sizes.words)} for role in roles] for _ in range(sizes.conversations)]


def train_tokenizer(family: str, template: str, sizes: Sizes) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer with a family's control tokens and its published chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    rng = Random(1)
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator((text(rng, 100) for _ in range(sizes.vocab_size // 4)), trainer)
    llama = family == "llama"
    backend.add_special_tokens([AddedToken(token, special=True) for token in (_LLAMA if llama else _QWEN)])
    backend.add_tokens([] if llama else [AddedToken(token, normalized=False) for token in _QWEN_MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>" if llama else None,
        eos_token="<|eot_id|>" if llama else "<|im_end|>",
        chat_template=files("trl").joinpath(f"chat_templates/{template}.jinja").read_text(),
    )


def usual_cases(sizes: Sizes) -> list[Case]:
    """Return the formats that are measured where no tokenizer is named; the last is the embedded model's."""
    llama, qwen = train_tokenizer("llama", "llama3", sizes), train_tokenizer("qwen", "qwen3", sizes)
    return [
        Case("llama3", llama, "llama3"),
        Case("qwen3", qwen, "qwen3"),
        Case("chat_template of Llama 3", llama, "chat_template"),
        Case("tinsmith_tiny", AutoTokenizer.from_pretrained(path()), "tinsmith_tiny"),
    ]


def measure_case(case: Case, sizes: Sizes, plain: Column, ours: Column) -> None:
    """Render the conversations both ways.

    Raises:
        RuntimeError: the ids differ, so that a comparison of speed would mean nothing.
    """
    renderer = get_renderer(case.renderer, case.tokenizer)
    chats = conversations(sizes)

    def by_template() -> list[list[int]]:
        return [case.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in chats]

    def by_renderer() -> list[list[int]]:
        return [renderer.build_supervised_example(chat).tokens for chat in chats]

    wanted = by_template()
    if by_renderer() != wanted:
        raise RuntimeError(f"{case.name}: ids differ from those of the template: nothing was compared")
    tokens = sum(map(len, wanted))
    seconds = race([by_template, by_renderer], "cpu", sizes.repeats)
    for column, elapsed in zip((plain, ours), seconds, strict=True):
        column.add(f"rendering, {case.name}", tokens / elapsed, "tokens/s")


def measure_training(case: Case, sizes: Sizes, ours: Column) -> dict[str, str]:
    """Make batches of rows and train the embedded model on them; return what share of the time the former takes."""
    rows = [{"messages": chat} for chat in conversations(sizes)]
    batches = Batches(rows, get_renderer(case.renderer, case.tokenizer), case.tokenizer, batch_size=len(rows))
    batch = batches.get(0)
    # The engine's context is shorter than the conversations of this benchmark may be.
    sequences = [datum.model_input.to_ints()[:257] for datum in batch.datums[:32]]
    trained = sum(len(ids) - 1 for ids in sequences)
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch:
        engine = TinsmithEngine(Job(str(path()), "cpu", "float32", 32, 1, Path(scratch)))
        (rendering,) = race([lambda: batches.get(0)], "cpu", sizes.repeats)
        (training,) = race([lambda: engine.train({"adapter0": sequences})], "cpu", sizes.repeats)
    made, learned = batch.tokens / rendering, trained / training
    ours.add(f"rows to datums, {case.name}", made, "tokens/s")
    ours.add("training, embedded model", learned, "tokens/s")
    return {"rendering per second of training": f"{learned / made:.2%}"}


def compare(cases: Sequence[Case], sizes: Sizes) -> tuple[list[Column], dict[str, object]]:
    """Measure all cases; return the template's column first, and facts about the comparison."""
    plain, ours = Column("apply_chat_template"), Column("tinsmith renderer")
    for case in cases:
        measure_case(case, sizes, plain, ours)
    facts: dict[str, object] = {}
    if cases[-1].renderer == "tinsmith_tiny":
        facts |= measure_training(cases[-1], sizes, ours)
    return [plain, ours], facts


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder or hub id; default: tokenizers trained here, and the embedded one")
    parser.add_argument("--renderer", help="of --tokenizer; default: the one that is recommended")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()  # of conversations longer than the embedded model's context
    sizes = QUICK if args.quick else Sizes()
    if args.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        name = args.renderer or get_recommended_renderer_name(args.tokenizer, tokenizer)
        cases = [Case(name, tokenizer, name)]
    else:
        cases = usual_cases(sizes)
    columns, found = compare(cases, sizes)
    facts = conditions(
        tokenizers=tokenizers.__version__, transformers=transformers.__version__, sizes=vars(sizes), **found
    )
    show("Rendering benchmark", columns, baseline=columns[0].system, facts=facts)
    if args.json:
        write_json(args.json, columns, facts)


if __name__ == "__main__":
    main()
