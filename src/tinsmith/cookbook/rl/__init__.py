"""Reinforcement learning with verifiable rewards: environments, rollouts, what is learned from them, the trainer.

`environment` says what environments, groups and data sets are; `environments/` has the kinds that ship, `tools/` those
in which the model calls tools, `agents/` those that are programs with a chat client; `trajectories` is what rollouts
leave behind. `rollouts/` plays them on an event loop of its own, `learning/` makes advantages and
examples of them, `trainer/` is the trainer on the skeleton of `cookbook/training`, `train` the one call that does all.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.rl.agents.agent_env import AgentEnv
from tinsmith.cookbook.rl.agents.chat_client import ChatClient
from tinsmith.cookbook.rl.environment import (
    Action,
    ActionExtra,
    Env,
    EnvGroupBuilder,
    Logs,
    MakeDataset,
    Metrics,
    Observation,
    RLDataset,
    StepResult,
    StopCondition,
)
from tinsmith.cookbook.rl.environments.groups import ItemDataset, RepeatedEnv
from tinsmith.cookbook.rl.environments.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult
from tinsmith.cookbook.rl.environments.problem_env import ProblemEnv, RewardMap
from tinsmith.cookbook.rl.evaluator import RolloutEvaluator
from tinsmith.cookbook.rl.learning.advantages import ADVANTAGES, AdvantageFunction, compute_advantages
from tinsmith.cookbook.rl.learning.rl_data import create_rl_data
from tinsmith.cookbook.rl.rollouts.env_errors import EnvError
from tinsmith.cookbook.rl.rollouts.limits import RolloutLimits
from tinsmith.cookbook.rl.tools.calls import ToolLimits
from tinsmith.cookbook.rl.tools.document_index import Document, DocumentIndex
from tinsmith.cookbook.rl.tools.tool import Tool, tool
from tinsmith.cookbook.rl.tools.tool_env import EpisodeGrade, ToolEnv
from tinsmith.cookbook.rl.train import train, train_on_groups
from tinsmith.cookbook.rl.trainer.config import RLConfig
from tinsmith.cookbook.rl.trajectories import (
    EndReason,
    RolloutError,
    TokensWithLogprobs,
    Trajectory,
    TrajectoryGroup,
    Transition,
)

__all__ = [
    "ADVANTAGES",
    "Action",
    "ActionExtra",
    "AdvantageFunction",
    "AgentEnv",
    "ChatClient",
    "Document",
    "DocumentIndex",
    "EndReason",
    "Env",
    "EnvError",
    "EnvFromMessageEnv",
    "EnvGroupBuilder",
    "EpisodeGrade",
    "ItemDataset",
    "Logs",
    "MakeDataset",
    "MessageEnv",
    "MessageStepResult",
    "Metrics",
    "Observation",
    "ProblemEnv",
    "RLConfig",
    "RLDataset",
    "RepeatedEnv",
    "RewardMap",
    "RolloutError",
    "RolloutEvaluator",
    "RolloutLimits",
    "StepResult",
    "StopCondition",
    "TokensWithLogprobs",
    "Tool",
    "ToolEnv",
    "ToolLimits",
    "Trajectory",
    "TrajectoryGroup",
    "Transition",
    "compute_advantages",
    "create_rl_data",
    "tool",
    "train",
    "train_on_groups",
]
