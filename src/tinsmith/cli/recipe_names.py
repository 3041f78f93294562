"""The recipes that come with Tinsmith, by the names that `tinsmith train` takes; nothing of them is imported here."""

from __future__ import annotations

_ROOM = "tinsmith.cookbook.recipes"

# In the order in which a newcomer reads them: the plain loops, their full-grown versions, then one task after another.
RECIPES = {
    name: f"{_ROOM}.{module}"
    for name, module in {
        "sl_loop": "sl_loop",
        "rl_loop": "rl_loop",
        "sl_basic": "sl_basic",
        "rl_basic": "rl_basic",
        "chat_sl": "chat_sl.train",
        "prompt_distillation": "prompt_distillation.train",
        "distillation": "distillation.train",
        "math_rl": "math_rl.train",
        "code_rl": "code_rl.train",
        "tool_use": "tool_use.train",
        "multiplayer_rl": "multiplayer_rl.train",
        "preference": "preference.train",
        "reward_model": "preference.reward_model.train",
        "rlhf": "preference.rlhf.train",
        "rl_numerics_check": "rl_numerics_check",
    }.items()
}
