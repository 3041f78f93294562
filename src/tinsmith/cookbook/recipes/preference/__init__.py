"""Learning from preferences: `train` is direct preference optimization, with the settings of `config`.

`reward_model/` trains a model that scores answers, `rlhf/` a reward model and a policy that learns from it, in one
command. `preference_dataset` says what is asked of held-out prompts, `preference_env` rewards answers by their score.
"""
