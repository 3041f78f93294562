"""What does a penalty for leaving the base model do? The recipe `rlhf` with it and without, as a table and a picture.

Both policies learn from the scores of one reward model. What the score is to stand for is known by rule, and measured
beside it.

python -m benchmarks.preferences
python -m benchmarks.preferences --seed 1 --picture docs/rlhf.svg --folder build/rlhf
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from benchmarks.common import Column, conditions, show, write_json
from tinsmith.cookbook.plots import save_panels
from tinsmith.cookbook.recipes.preference.reward_model.train import Config as RewardModelConfig
from tinsmith.cookbook.recipes.preference.reward_model.train import main as train_reward_model
from tinsmith.cookbook.recipes.preference.rlhf.train import Config, main
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows

_SCORE, _QUALITY = "eval/test/score", "eval/test/quality"
_POLICIES: dict[str, list[str]] = {"with penalty": [], "without penalty": ["kl_penalty_coef=0"]}


@dataclass(frozen=True)
class Learned:
    """What a policy came to.

    Attributes:
        steps: at which held-out prompts were asked.
        scores, quality: of the answers, means.
        cpu_s: seconds of the processors.
    """

    steps: list[int]
    scores: list[float]
    quality: list[float]
    cpu_s: float


def learn(name: str, folder: Path, reward_model: str, arguments: Sequence[str]) -> Learned:
    """Train one policy; a folder in which it was trained already is read."""
    before = _cpu_s()
    path = folder / name.replace(" ", "_")
    with redirect_stdout(StringIO()):
        main(parse(Config, [f"log_path={path}", f"reward_model={reward_model}", *_POLICIES[name], *arguments]))
    rows = [row for row in read_rows(path / "metrics.jsonl") if _SCORE in row]
    return Learned(
        [row["step"] for row in rows],
        [row[_SCORE] for row in rows],
        [row[_QUALITY] for row in rows],
        _cpu_s() - before,
    )


def reward_model(folder: Path, arguments: Sequence[str]) -> tuple[str, float]:
    """Train the reward model, unless it is there; return its weights, and its accuracy on held-out comparisons."""
    with redirect_stdout(StringIO()):
        settings = [f"log_path={folder / 'reward_model'}", "eval_every=0", *arguments]
        result = train_reward_model(parse(RewardModelConfig, settings))
    return result.sampler_path, result.metrics["test/accuracy"]


def column_of(name: str, learned: Learned) -> Column:
    """Return the column of a policy."""
    column = Column(name)
    column.add("score before", learned.scores[0], "nats")
    column.add("score after", learned.scores[-1], "nats")
    column.add("right before", 100 * learned.quality[0], "%")
    column.add("right after", 100 * learned.quality[-1], "%")
    column.add("processor time", learned.cpu_s, "s", higher_is_better=False)
    return column


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run() -> None:
    """Train the reward model and both policies, print the table, and write picture and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--folder", type=Path, help="where the runs lie, and are taken up; default: nowhere")
    parser.add_argument("--picture", type=Path, help="write the curves here: .svg or .png")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    logging.getLogger("tinsmith").setLevel(logging.ERROR)
    first, second = [f"seed={args.seed}"], [f"seed={args.seed}", "eval_every=4"]
    if args.quick:
        first += ["max_steps=2", "batch_size=4", "held_out=4"]
        second += ["max_steps=2", "batch_size=2", "group_size=2", "held_out=4"]
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch:
        folder = args.folder or Path(scratch)
        os.environ["TINSMITH_HOME"] = str(folder / "home")
        weights, accuracy = reward_model(folder, first)
        found = {name: learn(name, folder, weights, second) for name in _POLICIES}
    facts = conditions(threads=os.environ.get("OMP_NUM_THREADS", "all"))
    columns = [column_of(name, learned) for name, learned in found.items()]
    title = f"Reinforcement learning on a reward model that is right about {accuracy:.1%} of held-out comparisons"
    show(title, columns, baseline=columns[0].system, facts=facts)
    if args.picture:
        panels = {
            "score of the reward model, nats": {name: (each.steps, each.scores) for name, each in found.items()},
            "share of right answers": {name: (each.steps, each.quality) for name, each in found.items()},
        }
        save_panels(panels, args.picture, title="Held-out prompts: what is rewarded, and what it is to stand for")
    if args.json:
        write_json(args.json, columns, {**facts, "curves": {name: vars(each) for name, each in found.items()}})


if __name__ == "__main__":
    run()
