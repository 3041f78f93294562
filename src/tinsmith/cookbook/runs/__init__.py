"""The skeleton of a run, which every recipe stands on: `run.Run` owns a log path from the first to the last step.

What a recipe takes: `run_config`, `fields`, `command`, `help`. What lies on disk: `folder`, `run_lock`, `held_facts`,
`jsonl`, `run_checkpoints`, `code_version`. What is told: `metrics/`, `transcripts/`. `run_clients` reach the service.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.intervals import due
from tinsmith.cookbook.runs.run import Run
from tinsmith.cookbook.runs.run_checkpoints import SavedFinal, SavedState
from tinsmith.cookbook.runs.run_config import RunConfig
from tinsmith.cookbook.runs.transcripts.transcript import Transcript

__all__ = ["Run", "RunConfig", "SavedFinal", "SavedState", "Transcript", "due", "run_recipe"]
