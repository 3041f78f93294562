"""What `rl_numerics_check` of the official cookbook looks for, on generated text: do sampler and trainer agree?

An episode reads a page per turn and says something to each, so that its sequence grows to thousands of tokens, of which
some in every part were sampled. The official trainer learns from such episodes; then fresh ones are compared with a
forward pass, by depth in the context.

Run by the environment of the official cookbook, where neither Tinsmith nor pytest can be imported:

    python cookbook_numerics.py '{"model_name": ..., "log_path": ..., "base_url": ..., "loss_fn": ..., ...}'
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import chz
import numpy as np
import tinker
from tinker_cookbook.completers import TinkerTokenCompleter
from tinker_cookbook.rl import train
from tinker_cookbook.rl.data_processing import assemble_training_data, compute_advantages
from tinker_cookbook.rl.rollouts import do_group_rollout
from tinker_cookbook.rl.types import Action, ActionExtra, Env, EnvGroupBuilder, RLDataset, RLDatasetBuilder, StepResult
from tinker_cookbook.tokenizer_utils import get_tokenizer

TEXT = "the king was known later and his army after many years over the river until they could see it"
NO_STOP: list[int] = []


class Pages(Env):
    """Shows a page per turn; what counts is how often the model says `e`."""

    def __init__(self, pages: Sequence[list[int]], letter: int) -> None:
        self.pages = pages
        self.letter = letter
        self.seen = list(pages[0])
        self.turn = 0

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        return tinker.ModelInput.from_ints(self.seen), NO_STOP

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        self.turn += 1
        done = self.turn == len(self.pages)
        self.seen = [*self.seen, *action, *([] if done else self.pages[self.turn])]
        return StepResult(
            reward=action.count(self.letter) / len(action),
            episode_done=done,
            next_observation=tinker.ModelInput.from_ints(self.seen),
            next_stop_condition=NO_STOP,
        )


class PagesGroup(EnvGroupBuilder):
    """Some episodes over the same pages."""

    def __init__(self, pages: Sequence[list[int]], letter: int, size: int) -> None:
        self.pages, self.letter, self.size = pages, letter, size

    async def make_envs(self) -> Sequence[Env]:
        return [Pages(self.pages, self.letter) for _ in range(self.size)]


class PagesDataset(RLDataset):
    """Groups over pages of generated text."""

    def __init__(self, builder: PagesBuilder) -> None:
        self.builder = builder
        self.tokenizer = get_tokenizer(builder.model_name)
        (self.letter,) = self.tokenizer.encode("e", add_special_tokens=False)

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        rng = random.Random(index)
        return [PagesGroup(self._pages(rng), self.letter, self.builder.group_size) for _ in range(self.builder.groups)]

    def _pages(self, rng: random.Random) -> list[list[int]]:
        texts = [
            " ".join(rng.choice(TEXT.split()) for _ in range(self.builder.words)) for _ in range(self.builder.turns)
        ]
        return [self.tokenizer.encode(f"\n{text}\n", add_special_tokens=False) for text in texts]

    def __len__(self) -> int:
        return self.builder.steps


@chz.chz
class PagesBuilder(RLDatasetBuilder):
    """What an episode looks like."""

    model_name: str
    steps: int
    groups: int
    group_size: int
    turns: int
    words: int

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        return PagesDataset(self), None


async def compare(config: train.Config, sampled: int, parts: int) -> list[dict[str, float]]:
    """Sample episodes with the final weights and compute them again as the trainer does; return KL by depth."""
    last = json.loads((Path(config.log_path) / "checkpoints.jsonl").read_text().splitlines()[-1])
    service = tinker.ServiceClient(base_url=config.base_url)
    trainer = await service.create_training_client_from_state(last["state_path"])
    sampler = service.create_sampling_client(model_path=last["sampler_path"]).result()
    dataset, _ = await config.dataset_builder()
    groups = [
        await do_group_rollout(group, TinkerTokenCompleter(sampler, max_tokens=sampled))
        for group in dataset.get_batch(10_000)
    ]
    data, _ = assemble_training_data(groups, compute_advantages(groups))
    bare = [tinker.Datum(d.model_input, {"target_tokens": d.loss_fn_inputs["target_tokens"]}) for d in data]
    outputs = await trainer.forward(bare, "cross_entropy")
    depths, differences = [], []
    for datum, output in zip(data, outputs.loss_fn_outputs, strict=True):
        inputs = {key: value.to_numpy() for key, value in datum.loss_fn_inputs.items()}
        drawn = inputs["mask"] > 0
        depths.append(np.flatnonzero(drawn))
        differences.append((inputs["logprobs"] - output["logprobs"].to_numpy())[drawn])
    depth, difference = np.concatenate(depths), np.concatenate(differences)
    edges = np.linspace(0, depth.max() + 1, parts + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        some = difference[(depth >= low) & (depth < high)]
        found.append({"to": float(high), "v1": float(some.mean()), "largest": float(np.abs(some).max())})
    return found


def main(
    *, model_name: str, log_path: str, base_url: str, loss_fn: str, steps: int, turns: int, words: int, sampled: int
) -> None:
    """Train to the end, compare, and write what was found beside the metrics."""
    builder = PagesBuilder(model_name=model_name, steps=steps, groups=2, group_size=2, turns=turns, words=words)
    config = train.Config(
        log_path=log_path,
        base_url=base_url,
        model_name=model_name,
        recipe_name="numerics",
        renderer_name="role_colon",
        dataset_builder=builder,
        learning_rate=1e-3,
        lora_rank=8,
        max_tokens=sampled,
        loss_fn=loss_fn,
        eval_every=0,
        save_every=0,
    )

    async def run() -> list[dict[str, float]]:
        await train.main(config)
        return await compare(config, sampled, parts=4)

    (Path(log_path) / "depths.json").write_text(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
