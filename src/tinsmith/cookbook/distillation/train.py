"""Distillation: domains of prompts with their teachers in, a trained adapter out."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tinsmith.cookbook.distillation.answers import sample_teachers, teacher_answers, usable
from tinsmith.cookbook.distillation.config import DistillationConfig, check_off_policy
from tinsmith.cookbook.distillation.off_policy import OffPolicyTrainer
from tinsmith.cookbook.distillation.on_policy import TeacherObjective
from tinsmith.cookbook.distillation.prompts import Domain, Grade, Lesson, Prompt, exact, make_lesson
from tinsmith.cookbook.distillation.taught_examples import teacher_kl
from tinsmith.cookbook.distillation.teachers import Student, Teacher, TeacherSpec, open_teacher
from tinsmith.cookbook.eval import EvalContext, Evaluator
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import ItemDataset, RLDataset, RolloutEvaluator, train_on_groups
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rl.trainer.config import FREE
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.training import Evaluation, ModelSetup, TrainResult, run_trainer, set_up_model
from tinsmith.types.errors import invalid


def train_on_policy(
    config: DistillationConfig, recipe: str, domains: Sequence[Domain], *, grade: Grade = exact
) -> TrainResult:
    """Let the student answer and learn from what its teachers say of every token.

    The same call on the same log path carries on where it stopped. Held-out prompts give `eval/test/teacher_kl`, in
    nats per token, and where their answers are known `eval/test/correct` and `eval/test/teacher_correct`; with several
    domains, those of each.

    Args:
        config: sizes, model, loss, and where the run lies.
        recipe: its name, which the run and its folder are called after.
        domains: prompts with their teachers.
        grade: says whether an answer is right.

    Raises:
        UserError: a setting or a prompt cannot be used, or a teacher does not fit the student; nothing is begun then.
        TinsmithError: the service failed, or that of a teacher.
    """
    with _opened(config, recipe, domains, grade) as opened:
        return train_on_groups(
            config,
            opened.run,
            opened.model,
            opened.groups(opened.lessons, config),
            evaluators=opened.evaluators(config),
            advantages=_no_rewards,
            objective=TeacherObjective(config),
        )


def train_off_policy(
    config: DistillationConfig, recipe: str, domains: Sequence[Domain], *, grade: Grade = exact
) -> TrainResult:
    """Let the teachers answer, once, and the student learn what they said; arguments, metrics and errors as on-policy.

    The answers are kept in `teacher.jsonl` of the run's folder.
    """
    check_off_policy(config)
    with _opened(config, recipe, domains, grade) as opened:
        run, model = opened.run, opened.model
        # At once: answers are kept from the first one on, long before there is a state of the student.
        run.hold("teacher", {**opened.facts, **_sampling_facts(config)}, at_once=True)
        answers = usable(teacher_answers(config, run, opened.lessons))
        trainer = OffPolicyTrainer(config, model, opened.lessons, answers)
        evaluation = Evaluation(config, run, model, opened.evaluators(config))
        facts = {"answers": len(answers), "targets": f"top {config.top_k}" if config.top_k else "what was said"}
        return run_trainer(trainer, run, trainer.rates, evaluation, {**facts, "renderer": model.renderer.name})


@dataclass
class _Opened:
    """A run with its teachers.

    Attributes:
        run, model: open.
        lessons, held_out: prompts of all domains, to learn from and to measure with.
        facts: what the run is held to.
        grade: says whether an answer is right.
    """

    run: Run
    model: ModelSetup
    lessons: list[Lesson]
    held_out: list[Lesson]
    facts: Mapping[str, Any]
    grade: Grade

    def groups(self, lessons: Sequence[Lesson], config: DistillationConfig, *, measured: bool = False) -> RLDataset:
        size = 1 if measured else config.group_size
        return ItemDataset(
            lessons,
            lambda lesson: lesson.group(size, self.model.renderer, self.grade),
            config.batch_size,
            # Held-out prompts keep their order, so that every evaluation asks the same ones with the same seeds.
            None if measured else config.seed,
            self.facts,
        )

    def evaluators(self, config: DistillationConfig) -> list[Evaluator]:
        if not self.held_out:
            return []
        groups = self.groups(self.held_out, config, measured=True)
        found: list[Evaluator] = [RolloutEvaluator(groups, config.limits(), measure=teacher_kl)]
        known = [lesson for lesson in self.held_out if lesson.prompt.answer is not None]
        return [*found, TeacherEvaluator(known, config.max_tokens, self.grade)] if known else found


@dataclass
class TeacherEvaluator:
    """Measures how often the teachers themselves are right on held-out prompts, once: no training changes it.

    Attributes:
        lessons: with answers that are known.
        max_tokens: longest answer.
        grade: says whether an answer is right.
    """

    lessons: Sequence[Lesson]
    max_tokens: int
    grade: Grade
    _found: dict[str, float] = field(default_factory=dict[str, float])

    name = "teacher"
    on_snapshot = True

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Return the share of right answers at temperature 1, of each domain where there are several."""
        if not self._found:
            # From the text that the teacher said; the seeds are others than those of what is learned.
            seed = derived_seed(context.seed, "teacher", "test") // 2
            turns = sample_teachers(self.lessons, num_samples=1, max_tokens=self.max_tokens, temperature=1.0, seed=seed)
            said = [get_text_content(turn.message) for (turn,) in turns]
            self._found = asyncio.run(self._shares(said))
        return dict(self._found)

    async def _shares(self, said: Sequence[str]) -> dict[str, float]:
        right: dict[str, list[float]] = {}
        for text, lesson in zip(said, self.lessons, strict=True):
            grade = self.grade(text, lesson.prompt.answer or "")
            right.setdefault(lesson.domain, []).append(float(await grade if inspect.isawaitable(grade) else grade))
        found = {"eval/test/teacher_correct": fmean(each for own in right.values() for each in own)}
        # Where there is one domain, its number is that of all.
        of_domains = {f"eval/test/{name}/teacher_correct": fmean(own) for name, own in right.items()}
        return found | (of_domains if len(right) > 1 else {})


@contextmanager
def _opened(config: DistillationConfig, recipe: str, domains: Sequence[Domain], grade: Grade) -> Iterator[_Opened]:
    """Open a run and its teachers, and render all prompts; the first things that are sampled or trained come after."""
    if not domains:
        raise invalid("domains", "none", "at least one, with prompts and a teacher")
    with ExitStack() as exits, Run(config, recipe, free=FREE) as run:
        model = set_up_model(run, config)
        student = Student(
            model.service,
            config.model_name,
            model.tokenizer,
            model.renderer,
            config.max_trajectory_tokens,
            config.top_k,
        )
        teachers: dict[TeacherSpec, Teacher] = {}
        for domain in domains:
            if domain.teacher not in teachers:
                teachers[domain.teacher] = open_teacher(domain.teacher, student, exits)

        def lessons(domain: Domain, prompts: Sequence[Prompt]) -> list[Lesson]:
            teacher = teachers[domain.teacher]
            return [make_lesson(domain, prompt, teacher, model.renderer, config.max_tokens) for prompt in prompts]

        learned = [lesson for domain in domains for lesson in lessons(domain, domain.prompts)]
        held_out = [lesson for domain in domains for lesson in lessons(domain, domain.held_out)]
        yield _Opened(run, model, learned, held_out, {"domains": [*map(_domain_facts, domains)]}, grade)


def _domain_facts(domain: Domain) -> dict[str, Any]:
    """Return what a run that learns from a domain is held to; of its prompts, their hash."""
    prompts = [[list(prompt.messages), prompt.answer] for prompt in [*domain.prompts, *domain.held_out]]
    return {
        "name": domain.name,
        # Not the URL: a service may move.
        "teacher": domain.teacher.path or domain.teacher.model,
        "teacher_sees": domain.teacher_sees,
        "prompts": len(domain.prompts),
        "sha256": hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest(),
    }


def _sampling_facts(config: DistillationConfig) -> dict[str, Any]:
    """Return what the teachers' answers depend on beside the teachers and the prompts."""
    return {name: getattr(config, name) for name in ("group_size", "temperature", "max_tokens", "seed")}


def _no_rewards(rewards: Sequence[float]) -> list[float]:
    return [0.0] * len(rewards)
