"""Preferences: comparisons of two answers, policies and reward models that learn from them, and judges.

`formats` and `comparison` read rows of any published shape, `sources` finds them, `pair_examples` renders pairs.
`dpo` and `reward_trainer` are the trainers, on what `pair_trainer` has for both; `reward_model` scores completions
(`reward_tokens` are the two tokens it reads), `rewards` lets reinforcement learning learn from scores and judges, and
`comparing` and `baselines` evaluate.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.preference.comparing import ComparisonEvaluator, RewardModelJudge
from tinsmith.cookbook.preference.comparison import Comparison, read_comparison
from tinsmith.cookbook.preference.dpo import DPOConfig, train_dpo, train_dpo_in
from tinsmith.cookbook.preference.reward_model import RewardModel
from tinsmith.cookbook.preference.reward_trainer import RewardModelConfig, bradley_terry, train_reward_model
from tinsmith.cookbook.preference.rewards import JudgedGroup, ScoredGroup, with_reward_model
from tinsmith.cookbook.preference.sources import Comparisons, load_comparisons

__all__ = [
    "Comparison",
    "ComparisonEvaluator",
    "Comparisons",
    "DPOConfig",
    "JudgedGroup",
    "RewardModel",
    "RewardModelConfig",
    "RewardModelJudge",
    "ScoredGroup",
    "bradley_terry",
    "load_comparisons",
    "read_comparison",
    "train_dpo",
    "train_dpo_in",
    "train_reward_model",
    "with_reward_model",
]
