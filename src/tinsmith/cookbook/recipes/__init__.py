"""Training to read, run and copy: `sl_loop` and `rl_loop` are the loops, `sl_basic` and `rl_basic` have all there is.

Folders have a README each: `chat_sl/` (conversations, what they gained and cost), `prompt_distillation/` and
`distillation/` (teachers), `math_rl/` (problems with a right answer), and other environments.
`rl_numerics_check` compares sampler and learner.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
