"""The cookbook: everything between a person's data and the four verbs of the SDK.

From the top: `recipes/` and `demo`, `distillation/`, `supervised/` and `rl/`, `training/` (the skeleton of every
trainer), `eval/`, `batches/`, `rows/` (data) and `runs/` (the log path), `completers` (sampled turns),
`model_info`, `renderers/`, `datasets/`.
`utils`, `hyperparam_utils` and `tokenizer_utils` have names of the hosted service's cookbook, for scripts of others.
"""

from tinsmith.logs import hush_missing_widgets

# Before any room of it imports transformers or datasets.
hush_missing_widgets()
