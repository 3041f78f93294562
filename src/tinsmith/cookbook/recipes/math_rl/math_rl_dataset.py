"""Groups of problems to learn from, what comes before each question, and what is asked of held-out ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.problems import Problem, Problems
from tinsmith.cookbook.recipes.math_rl.config import Config
from tinsmith.cookbook.recipes.math_rl.math_rl_env import MathEnv
from tinsmith.cookbook.rl import ItemDataset, MakeDataset, RepeatedEnv, RLDataset
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.rows.files.jsonl_rows import JsonlRows
from tinsmith.cookbook.rows.row_kinds import read_messages
from tinsmith.cookbook.training import ModelSetup

# Shows that steps come first, and where the answer stands.
STANDARD = (
    {"role": "user", "content": "How many minutes are in 3 hours and 20 minutes? Write in \\boxed{}."},
    {"role": "assistant", "content": "3 hours are 3 * 60 = 180 minutes, and 180 + 20 = 200. \\boxed{200}"},
)
_USUAL_BATCH_SIZE = 16
Messages = Sequence[Mapping[str, Any]]


def convo_prefix(system_prompt: str | None, few_shot: str | None) -> Messages:
    """Return the messages before each question.

    Args:
        system_prompt: text of the first of them; None for none.
        few_shot: `standard`, or a JSONL file of conversations, whose messages are taken one after the other.

    Raises:
        UserError: the file cannot be read, or a row of it is no conversation.
    """
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    if few_shot is None:
        return system
    if few_shot == "standard":
        return [*system, *STANDARD]
    return [*system, *(message for row in JsonlRows(few_shot) for message in read_messages(row).messages)]


def problems_per_step(config: Config, problems: Problems) -> int:
    """Return the problems of a step: as many as were asked for, else 16, or fewer of few problems."""
    return rows_per_batch(config.batch_size, len(problems.train), _USUAL_BATCH_SIZE, "problems")


def groups(config: Config, problems: Problems, *, held_out: bool = False) -> MakeDataset:
    """Return what makes a data set of groups: each training problem `group_size` times, or each held-out one once.

    Raises:
        UserError: the examples before each question cannot be read.
    """
    prefix = convo_prefix(config.system_prompt, config.few_shot)
    batch_size = problems_per_step(config, problems)
    chosen, group_size = (problems.test, 1) if held_out else (problems.train, config.group_size)

    def make(model: ModelSetup) -> RLDataset:
        def group(problem: Problem) -> RepeatedEnv:
            def env() -> MathEnv:
                return MathEnv(problem.problem, problem.answer, model.renderer, prefix, config.rewards())

            return RepeatedEnv(env, group_size, [problem.kind] if problem.kind else [])

        # Held-out problems keep their order, so that every evaluation asks the same ones with the same seeds.
        return ItemDataset(chosen, group, batch_size, None if held_out else config.seed, problems.facts())

    return make


@dataclass(frozen=True)
class Majority:
    """Measures what one gets for always giving the answer that is right most often in training.

    Attributes:
        problems: whose test problems are answered so.
    """

    problems: Problems

    name = "majority"
    on_snapshot = True

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Return the share of right answers, which no training changes."""
        ((most_frequent, _),) = Counter(problem.answer for problem in self.problems.train).most_common(1)
        right = sum(problem.answer == most_frequent for problem in self.problems.test)
        return {f"eval/{self.problems.name}/majority": right / len(self.problems.test)}
