"""Make or evaluate tinsmith-tiny, the model that ships with the package.

    python scripts/make_tiny.py                     pretrain (resumes by itself), then write the checkpoint folder
    python scripts/make_tiny.py --export-only       write the checkpoint folder from the last saved state
    python scripts/make_tiny.py --evaluate          accuracy per skill of the shipped checkpoint, printed and as JSON

Seeded; 30 to 60 minutes on two cores. See docs/embedded-model.md.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from tinsmith import models
from tiny import evaluate
from tiny.train import Plan, Run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/tiny"), help="folder of the run's state and log")
    parser.add_argument("--out", type=Path, default=models.path(), help="checkpoint folder to write or to evaluate")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--count", type=int, default=200, help="held-out examples per skill with --evaluate")
    return parser.parse_args()


def evaluate_checkpoint(folder: Path, build: Path, count: int, seed: int) -> None:
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = evaluate.report(model, count, seed)
    for skill, scores in found.items():
        print(f"| {skill} | {scores['greedy']:.1%} | {scores['sampled']:.1%} |")
    build.mkdir(parents=True, exist_ok=True)
    target = build / "accuracy.json"
    target.write_text(json.dumps({"count": count, "seed": seed, "accuracy": found}, indent=2) + "\n")
    print(f"written: {target}")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.evaluate:
        evaluate_checkpoint(args.out, args.build, args.count, args.seed)
        return
    run = Run(Plan(seed=args.seed, steps=args.steps), args.build)
    if not args.export_only:
        run.train()
    run.export(args.out)


if __name__ == "__main__":
    main()
