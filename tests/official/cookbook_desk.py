"""A working directory in which recipes of the official cookbook find models and data sets by their hub names."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.official.cookbook import write_lines
from tinsmith.models import path as shipped_path

# All the same weights. The official tables give the last one `role_colon`, the others the renderers of Qwen 3.5.
MODELS = ("Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.5-9B-Base")
# Games of twenty turns in bytes, and a prompt of four thousand, are longer than what the embedded model is made for.
CONTEXT = 4096
# What the Qwen renderers begin and end messages with, in place of two tokens that nothing uses.
_RENAMED = {"<|reserved_0|>": "<|im_start|>", "<|reserved_1|>": "<|im_end|>"}
_WORDS = "the king was known later and his army after many years over the river until they could see it when time then"


def make_model(folder: Path) -> Path:
    """Make the embedded model one that the Qwen renderers can speak to, with a longer context."""
    shutil.copytree(shipped_path(), folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        text = (folder / name).read_text()
        for old, new in _RENAMED.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": CONTEXT}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def lay_out(desk: Path, model: Path) -> Path:
    """Put the model, and generated rows in the form of the data sets that recipes load, into a folder."""
    for name in MODELS:
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        (desk / name).symlink_to(model)
    rng = random.Random(0)
    for name, splits in _DATA.items():
        for split, (count, row) in splits.items():
            write_lines(desk / name / f"{split}.jsonl", [row(rng, i) for i in range(count)])
    for name, config in (("openai/gsm8k", "main"), ("Salesforce/wikitext", "wikitext-103-raw-v1")):
        # A data set with a named configuration says so in its card.
        splits = "".join(f"  - split: {s}\n    path: {s}.jsonl\n" for s in _DATA[name])
        (desk / name / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{splits}---\n")
    sentences = desk / "tinker_cookbook/example_data/multilingual.txt"
    sentences.parent.mkdir(parents=True)
    sentences.write_text("hello there\nguten Tag\n")
    return desk


Row = Callable[[random.Random, int], dict[str, Any]]


def _sum(rng: random.Random, index: int) -> dict[str, Any]:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return {"question": f"What is {a} + {b}?", "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"}


def _conversation(rng: random.Random, index: int) -> dict[str, Any]:
    said = [{"role": "user", "content": f"say {index}"}, {"role": "assistant", "content": f"{index}"}]
    return {"messages": said}


def _preference(rng: random.Random, index: int) -> dict[str, Any]:
    asked = f"\n\nHuman: What is {index} + 1?\n\nAssistant:"
    return {"chosen": f"{asked} {index + 1}", "rejected": f"{asked} who knows, {index}"}


def _exam(rng: random.Random, index: int) -> dict[str, Any]:
    return {
        "domain": "Chemistry",
        "details": {"level": "L3"},
        "type": "mcq-4-choices",
        "question": f"Which is number {index}?",
        "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[index % 4],
    }


def _feedback(rng: random.Random, index: int) -> dict[str, Any]:
    scores = {f"orig_score{i}_description": f"as bad as {i}" for i in range(1, 6)}
    return {"orig_instruction": "say a", "orig_criteria": "is it a", "orig_reference_answer": "a", **scores}


_DATA: dict[str, dict[str, tuple[int, Row]]] = {
    "HuggingFaceH4/no_robots": {"train": (64, _conversation), "test": (8, _conversation)},
    "allenai/tulu-3-sft-mixture": {"train": (64, _conversation)},
    "openai/gsm8k": {"train": (64, _sum), "test": (8, _sum)},
    "zwhe99/DeepMath-103K": {
        "train": (32, lambda rng, i: {"question": f"What is {i} + 1?", "final_answer": str(i + 1)})
    },
    "Anthropic/hh-rlhf": {"train": (64, _preference), "test": (8, _preference)},
    "open-thoughts/OpenThoughts3-1.2M": {
        "train": (
            64,
            lambda rng, i: {
                "conversations": [{"from": "human", "value": f"say {i}"}, {"from": "gpt", "value": f"{i}"}]
            },
        )
    },
    "hicai-zju/SciKnowEval": {"test": (20, _exam)},
    "prometheus-eval/Feedback-Collection": {"train": (8, _feedback)},
    "Salesforce/wikitext": {
        "train": (2000, lambda rng, i: {"text": " ".join(rng.choice(_WORDS.split()) for _ in range(40))})
    },
}
