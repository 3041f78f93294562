"""Every recipe of the official cookbook: the command that runs it here, or what it needs that is not there.

The table of docs/official-cookbook.md is made of this, and a test runs every row.
"""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.official.cookbook import PYTHON

PACKAGE = "tinker_cookbook.recipes"


@dataclass(frozen=True)
class Runs:
    """A recipe that comes to its end.

    Attributes:
        arguments: of its command line; the run is as short as it can be.
        note: what it was tried on.
        leaves: a file, or the folder of a run, that is there afterwards; a pattern, empty where nothing is left.
        first: a recipe of the table that has to be run before, in the same folder.
    """

    arguments: str
    note: str = ""
    leaves: str = "run"
    first: str | None = None


@dataclass(frozen=True)
class Needs:
    """A recipe that cannot start here.

    Attributes:
        what: it needs.
        says: a part of what it prints without that.
        arguments: of its command line.
    """

    what: str
    says: str
    arguments: str = ""


BASE = "model_name=Qwen/Qwen3.5-9B-Base"
CHAT = "model_name=Qwen/Qwen3.5-4B"
SHORT = "log_path=run max_steps=1 eval_every=0 save_every=0"
GROUPS = "groups_per_batch=2 group_size=4 max_tokens=5"

_MODAL = Needs("`modal`, which runs sandboxes", "modal is required for ModalSandbox")
_ARENA = Needs("`textarena`", "textarena is required for this recipe")
_VERIFIERS = Needs("`verifiers`", "No module named 'verifiers'")
_CHROMA = Needs("`chromadb`, an index of Wikipedia and an embedding service", "No module named 'chromadb'")
_AUDIO = Needs("a model that reads audio (audio chunks are refused by name)", "Audio input is not supported by", CHAT)
_FORECASTS = Needs("the download of Prophet Arena, pinned by its hash", "urlopen error")
_PAPER = "the data of the paper's repository"
_IMAGES = "a model that reads images, and its image processor (image chunks are refused by name)"

RECIPES: dict[str, Runs | Needs] = {
    "sl_loop": Runs(f"{BASE} log_path=run batch_size=32 lora_rank=8", "`HuggingFaceH4/no_robots`; resume is exact"),
    "sl_basic": Runs(
        f"{BASE} {SHORT} lora_rank=8 dataset_builder=tinker_cookbook.supervised.data:FromConversationFileBuilder "
        "dataset_builder.file_path=HuggingFaceH4/no_robots/train.jsonl dataset_builder.test_size=8 "
        "dataset_builder.common_config.model_name_for_tokenizer=Qwen/Qwen3.5-9B-Base "
        "dataset_builder.common_config.renderer_name=role_colon dataset_builder.common_config.max_length=256 "
        "dataset_builder.common_config.batch_size=8",
        "a file of conversations; resume, evaluators",
    ),
    "chat_sl.train": Runs(f"{BASE} {SHORT} batch_size=8 lora_rank=8", "a file of conversations, or `no_robots`"),
    "chat_sl.sweep.cli": Runs(
        "recipe=sft base.model_name=Qwen/Qwen3.5-9B-Base base.batch_size=8 base.max_steps=1 "
        "training_budget_examples=16 learning_rates=[1e-3] lora_ranks=[8]",
        "a sweep over `chat_sl.train`",
        leaves="runs/sweeps/*/*rank=8",
    ),
    "chat_sl.sweep.launch_all": Runs(
        "--dry-run --only moonshotai/Kimi-K2.6",
        "a dry run: what it launches are sweeps over twenty models",
        leaves="",
    ),
    "chat_sl.sweep.analyze": Runs(
        "--local-dir runs/sweeps --output-dir . --no-plots",
        "the sweep of `chat_sl.sweep.cli`",
        leaves="sft_sweep.md",
        first="chat_sl.sweep.cli",
    ),
    "rl_loop": Runs(
        f"{BASE} log_path=run batch_size=4 group_size=4 max_tokens=5 max_steps=2",
        "`openai/gsm8k`; `stable_reinforce` (its default), `gspo`, `cispo`, `importance_sampling`; resume",
    ),
    "rl_basic": Runs(
        f"{SHORT} max_tokens=5 dataset_builder=tinker_cookbook.recipes.math_rl.math_env:Gsm8kDatasetBuilder "
        "dataset_builder.batch_size=4 dataset_builder.group_size=4 dataset_builder.renderer_name=role_colon "
        "dataset_builder.model_name_for_tokenizer=Qwen/Qwen3.5-9B-Base",
        "`openai/gsm8k`",
    ),
    "math_rl.train": Runs(
        f"{BASE} {SHORT} {GROUPS}",
        "arithmetic and `openai/gsm8k`; synchronous, streaming, asynchronous; `stable_reinforce` (its default), "
        "`importance_sampling`, `ppo`, `cispo`, `gspo`",
    ),
    "rl_numerics_check.train": Runs(
        f"{CHAT} renderer_name=qwen3_5_disable_thinking {SHORT} group_size=2 groups_per_batch=2 max_tokens=24 "
        "max_trajectory_tokens=3500 task.num_pages_min=1 task.num_pages_max=2 task.page_chars=200",
        "generated text in place of `Salesforce/wikitext`",
    ),
    "multiplayer_rl.guess_number.train": Runs(f"{SHORT} batch_size=1 group_size=2 max_tokens=8"),
    "multiplayer_rl.twenty_questions.train": Runs(
        f"{SHORT} batch_size=1 group_size=2 max_tokens=8", "with `Qwen/Qwen3.5-9B` as the answerer"
    ),
    "multiplayer_rl.text_arena.train": _ARENA,
    "multiplayer_rl.text_arena.play": _ARENA,
    "preference.dpo.train": Runs(
        f"{BASE} log_path=run max_steps=1 batch_size=8 max_length=256", "`Anthropic/hh-rlhf`; the loss runs client-side"
    ),
    "preference.shorter.train": Runs("log_path=run max_steps=1 eval_every=0 batch_size=2 group_size=4 max_tokens=8"),
    "preference.rlhf.rlhf_pipeline": Runs(
        "batch_size=4 max_steps=1 rl_max_tokens=8 rl_group_size=2 lora_rank=8 eval_every=0 save_every=0",
        "all three stages; `no_robots` and `Anthropic/hh-rlhf`",
        leaves="runs/rlhf-*/rl",
    ),
    "prompt_distillation.create_data": Runs(
        "output_file=lines.jsonl", "with `Qwen/Qwen3.6-35B-A3B` as the teacher", leaves="lines.jsonl"
    ),
    "prompt_distillation.train": Runs(
        f"{CHAT} {SHORT} file_path=HuggingFaceH4/no_robots/train.jsonl batch_size=8 lora_rank=8"
    ),
    "distillation.on_policy_distillation": Runs(f"{BASE} {SHORT} {GROUPS} lora_rank=8", "`zwhe99/DeepMath-103K`"),
    "distillation.on_policy_multi_teacher": Runs(
        f"{CHAT} {SHORT} deepmath_groups_per_batch=1 tulu3_groups_per_batch=1 group_size=2 max_tokens=5 lora_rank=8 "
        "deepmath_teacher_model=Qwen/Qwen3.5-9B tulu3_teacher_model=Qwen/Qwen3.5-9B",
        "`zwhe99/DeepMath-103K`, `allenai/tulu-3-sft-mixture`",
    ),
    "distillation.off_policy_reasoning": Runs(
        f"{BASE} renderer_name=role_colon {SHORT} batch_size=8 buffer_size=16 max_prompts=16 max_length=256 "
        "lora_rank=8",
        "`open-thoughts/OpenThoughts3-1.2M`, as a stream",
    ),
    "distillation.on_policy_distillation_harbor_multi_turn": _MODAL,
    "sdft.train": Runs(
        f"{CHAT} {SHORT} groups_per_batch=2 max_tokens=8 max_context_length=2048 lora_rank=8", "`hicai-zju/SciKnowEval`"
    ),
    "sdft.benchmark": Needs(_PAPER, "Self-Distillation/data", CHAT),
    "sdft.run_continual_learning": Needs(_PAPER, "Self-Distillation/data"),
    "rubric.generate_data": Runs("", leaves="tinker_cookbook/example_data/example_rubric_train.jsonl"),
    "rubric.train": Runs(
        f"{CHAT} {SHORT} groups_per_batch=1 train_group_size=2 max_tokens=8",
        "with `Qwen/Qwen3.6-35B-A3B` as the grader; `stable_reinforce`",
        first="rubric.generate_data",
    ),
    "rubric.prometheus_experimental": Runs(
        f"{CHAT} {SHORT} groups_per_batch=1 train_group_size=2 max_tokens=8", "`prometheus-eval/Feedback-Collection`"
    ),
    "rubric.debug_env": Runs("", leaves=""),
    "decisions.demo": Runs("--model_name=Qwen/Qwen3.5-4B", leaves=""),
    "decisions.forecasting": _FORECASTS,
    "forecasting.data": _FORECASTS,
    "forecasting.train": _FORECASTS,
    "true_thinking_score.run_small_experiment": Runs("", leaves="runs/tts-experiment/tts_results.json"),
    "true_thinking_score.analyze": Runs(
        f"{CHAT} dataset=gsm8k n_problems=1 max_tokens=16 log_path=run", "`openai/gsm8k`", leaves="run/*.json"
    ),
    "code_rl.train": Needs(
        "`agentica-org/DeepCoder-Preview-Dataset` and a sandbox server", "DeepCoder-Preview-Dataset", CHAT
    ),
    "search_tool.train": _CHROMA,
    "search_tool.offline_eval": _CHROMA,
    "verifiers_rl.train": _VERIFIERS,
    "verifiers_rl.evaluate": _VERIFIERS,
    "harbor_rl.scripts.train_terminal_bench": _MODAL,
    "harbor_rl.scripts.eval_harbor_rl": _MODAL,
    "vlm_classifier.train": Needs(_IMAGES, "Can't load image processor", f"{CHAT} experiment_dir=run"),
    "vlm_classifier.eval": Needs(
        _IMAGES, "Can't load image processor", f"{CHAT} dataset=caltech101 model_path=tinker://a/sampler_weights/b"
    ),
    "vlm_classifier.sweep": Needs(_IMAGES, "image", "experiment_dir=run"),
    "vlm_classifier.eval_sweep": Needs(_IMAGES, "image", "experiment_dir=run"),
    "audio.asr.sl_train": _AUDIO,
    "audio.asr.rl_train": _AUDIO,
    "audio.emotion.sl_train": _AUDIO,
    "audio.emotion.rl_train": _AUDIO,
    "audio.emotion.evaluate": _AUDIO,
    "audio.emotion.prepare_data": Needs("`ffmpeg`, and the Expresso recordings", "ffmpeg is required"),
    "audio.medical_asr.train": _AUDIO,
}


def scripts_of_the_package() -> set[str]:
    """Return the modules of the installed package's recipes that can be run, without importing them."""
    found = subprocess.run(
        [str(PYTHON), "-c", f"import {PACKAGE} as p; print(list(p.__path__)[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    root = Path(found.stdout.strip())
    paths = [path for path in root.rglob("*.py") if _is_script(path)]
    return {".".join(path.relative_to(root).with_suffix("").parts) for path in paths}


def _is_script(path: Path) -> bool:
    """Whether a file has a part that runs when the file is run."""
    tests = [node.test for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    return any("__main__" in ast.unparse(test) for test in tests)


def render() -> str:
    """Return the table of the page."""
    lines = ["| recipe | here | data, models and options that were tried |", "|---|---|---|"]
    for name, row in RECIPES.items():
        here = "runs" if isinstance(row, Runs) else f"needs {row.what}"
        lines.append(f"| `{name}` | {here} | {row.note if isinstance(row, Runs) else ''} |")
    return "\n".join(lines).replace("|  |", "| |") + "\n"
