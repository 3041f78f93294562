"""Groups on a transcript's page: every token with its logprob and advantage, every reward with its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.rl.learning.group_examples import GroupExamples
from tinsmith.cookbook.rl.trajectories import Trajectory
from tinsmith.cookbook.runs.transcripts.transcript import Page
from tinsmith.cookbook.token_text import token_texts

# Episodes of a group that are shown: the best and the worst say most.
_SHOWN = 4


def show_groups(page: Page, tokenizer: Any, groups: Sequence[GroupExamples]) -> None:
    """Add groups to a page.

    Args:
        page: filled.
        tokenizer: of the model; spells the tokens.
        groups: with their advantages.
    """
    for number, learned in enumerate(groups):
        group, rewards = learned.group, learned.group.get_total_rewards()
        told = ", ".join(f"{reward:g}" for reward in rewards) or "none"
        constant = " · all equal: nothing is learned" if learned.constant else ""
        page.heading(f"group {number}{''.join(f' · {tag}' for tag in group.tags)} · rewards {told}{constant}")
        for error in group.errors:
            page.text(f"{error.error_type}: {error.error_message}")
        ranked = sorted(range(len(rewards)), key=rewards.__getitem__, reverse=True)
        shown = ranked if len(ranked) <= _SHOWN else [*ranked[: _SHOWN // 2], *ranked[-_SHOWN // 2 :]]
        for place in shown:
            trajectory = group.trajectories[place]
            parts = _parts(trajectory, group.final_rewards[place])
            page.text(
                f"episode {place} · reward {rewards[place]:g}{parts} · {_advantage(learned.advantages[place])} · "
                f"ended: {trajectory.end_reason}"
            )
            _show_tokens(page, tokenizer, trajectory, learned.advantages[place])
            logs = [{"turn": turn, **step.logs} for turn, step in enumerate(trajectory.transitions) if step.logs]
            if logs:
                page.table(logs)


def show_learned(page: Page, tokenizer: Any, groups: Sequence[GroupExamples]) -> None:
    """Add what is learned from groups, where it is not their rewards: every token with an advantage of its own.

    Args:
        page: filled.
        tokenizer: of the model; spells the tokens.
        groups: forwarded.
    """
    for number, learned in enumerate(groups):
        page.heading(f"group {number}{''.join(f' · {tag}' for tag in learned.group.tags)}")
        for _, example in learned.examples[:_SHOWN]:
            pairs = zip(example.logprobs, example.action, strict=True)
            logprobs = [logprob if action else None for logprob, action in pairs]
            texts = token_texts(tokenizer, example.tokens)
            page.tokens(
                texts, example.advantages, logprobs, example.tokens, [bool(action) for action in example.action]
            )


def _advantage(turns: Sequence[float]) -> str:
    told = [f"{advantage:.4g}" for advantage in turns]
    return f"advantage {told[0]}" if len(set(told)) == 1 else f"advantages {', '.join(told) or 'none'}"


def _parts(trajectory: Trajectory, final: float) -> str:
    found = [f"{name} {part:g}" for step in trajectory.transitions for name, part in step.reward_parts.items()]
    if trajectory.limit_reward:
        found.append(f"limit {trajectory.limit_reward:g}")
    if final:
        found.append(f"group {final:g}")
    return f" ({', '.join(found)})" if found else ""


def _show_tokens(page: Page, tokenizer: Any, trajectory: Trajectory, advantages: Sequence[float]) -> None:
    ids: list[int] = []
    weights: list[float] = []
    logprobs: list[float | None] = []
    for step, advantage in zip(trajectory.transitions, advantages, strict=True):
        observed = step.ob.to_ints()
        # What was shown already is not shown again; where an observation begins anew, all of it is.
        new = observed[len(ids) :] if observed[: len(ids)] == ids else observed
        ids += [*new, *step.ac.tokens]
        weights += [0.0] * len(new) + [advantage] * len(step.ac.tokens)
        logprobs += [None] * len(new) + list(step.ac.logprobs)
    if ids:
        page.tokens(token_texts(tokenizer, ids), weights, logprobs, ids, [logprob is not None for logprob in logprobs])
