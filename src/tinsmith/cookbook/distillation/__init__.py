"""Distillation: a student learns from a teacher, by its own answers or by the teacher's.

`teachers` opens teachers and compares them with the student; `prompts` says what is asked, in domains that have a
teacher each; `config` has the settings, `train` the two calls that do all. On-policy: `on_policy`, `reverse_kl`,
`taught_examples`, on `cookbook/rl`. Off-policy: `answers`, `off_policy`, on `cookbook/training`.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.distillation.config import DistillationConfig
from tinsmith.cookbook.distillation.prompts import Domain, Grade, Prompt, TaughtGroup, exact
from tinsmith.cookbook.distillation.teachers import TeacherSpec
from tinsmith.cookbook.distillation.train import train_off_policy, train_on_policy

__all__ = [
    "DistillationConfig",
    "Domain",
    "Grade",
    "Prompt",
    "TaughtGroup",
    "TeacherSpec",
    "exact",
    "train_off_policy",
    "train_on_policy",
]
