"""What a student is asked: prompts, domains of them that have a teacher each, and their groups of episodes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinsmith.cookbook.distillation.teachers import Teacher, TeacherSpec
from tinsmith.cookbook.renderers import Message, Renderer
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import EnvFromMessageEnv, MessageEnv, MessageStepResult, RepeatedEnv
from tinsmith.types.errors import invalid

# From what was said and the right answer to whether it is right.
Grade = Callable[[str, str], "bool | Awaitable[bool]"]


class Prompt(NamedTuple):
    """What is asked.

    Attributes:
        messages: a conversation that ends with a message of the user.
        answer: what is right, where that is known.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str | None = None


@dataclass(frozen=True)
class Domain:
    """Prompts and their teacher.

    Attributes:
        name: what metrics about it are called.
        prompts: to learn from.
        held_out: others, to measure with.
        teacher: whom the student learns from here.
        teacher_sees: what the teacher reads in the place of the last message, with `{question}` and `{answer}` in it;
            None shows it what the student sees.
    """

    name: str
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    teacher: TeacherSpec
    teacher_sees: str | None = None


def exact(said: str, answer: str) -> bool:
    """Grade whether an answer is the right one, spaces around both aside."""
    return said.strip() == answer.strip()


def messages_for_teacher(prompt: Prompt, teacher_sees: str | None) -> Sequence[Mapping[str, Any]]:
    """Return the conversation as the teacher reads it.

    Raises:
        UserError: the prompt has no answer that could be shown.
    """
    if teacher_sees is None:
        return prompt.messages
    if "{answer}" in teacher_sees and prompt.answer is None:
        raise invalid("teacher_sees", teacher_sees, f"a text without {{answer}}: {prompt.messages[-1]} has none")
    question = str(prompt.messages[-1]["content"])
    # Not `format`: a text with other braces in it, a program for example, stays as it is. `{answer}` last would also
    # be filled in where a question spells it, so both are put in at once.
    parts = teacher_sees.split("{question}")
    shown = question.join(part.replace("{answer}", prompt.answer or "") for part in parts)
    return [*prompt.messages[:-1], {**prompt.messages[-1], "content": shown}]


class PromptEnv(MessageEnv):
    """One prompt, one answer. There is no reward: what is learned comes from the teacher.

    Args:
        prompt: what is asked.
        grade: says whether an answer is right, where that is known; measured as `correct`.
    """

    def __init__(self, prompt: Prompt, grade: Grade = exact) -> None:
        self._prompt = prompt
        self._grade = grade

    async def initial_observation(self) -> Sequence[Message | Mapping[str, Any]]:
        """Return the conversation."""
        return self._prompt.messages

    async def step(self, message: Message) -> MessageStepResult:
        """End the episode, and grade."""
        said = get_text_content(message)
        answer = self._prompt.answer
        if answer is None:
            return MessageStepResult(0.0, True, logs={"said": said})
        right = self._grade(said, answer)
        right = await right if inspect.isawaitable(right) else right
        return MessageStepResult(0.0, True, metrics={"correct": float(right)}, logs={"said": said, "reference": answer})


@dataclass(frozen=True)
class TaughtGroup(RepeatedEnv):
    """A group whose episodes a teacher looks at.

    Attributes:
        teacher: who.
        teacher_prompt: ids that it reads before what was said; None: what the student read.
    """

    teacher: Teacher | None = None
    teacher_prompt: Sequence[int] | None = None


@dataclass(frozen=True)
class Lesson:
    """A prompt of a domain, with its teacher open.

    Attributes:
        domain: its name.
        prompt: what the student is asked.
        teacher: who looks at the answers, or gives them.
        student_reads, teacher_reads: ids of the prompt.
    """

    domain: str
    prompt: Prompt
    teacher: Teacher
    student_reads: list[int]
    teacher_reads: list[int]

    def group(self, size: int, renderer: Renderer, grade: Grade) -> TaughtGroup:
        """Return the group of episodes that this prompt makes."""
        return TaughtGroup(
            lambda: EnvFromMessageEnv(renderer, PromptEnv(self.prompt, grade)),
            size,
            [self.domain],
            self.teacher,
            self.teacher_reads,
        )


def make_lesson(domain: Domain, prompt: Prompt, teacher: Teacher, renderer: Renderer, room: int) -> Lesson:
    """Render a prompt for student and teacher.

    Args:
        domain: that it belongs to.
        prompt: what is asked.
        teacher: of the domain, open.
        renderer: of the student.
        room: tokens that an answer may have.

    Raises:
        UserError: the teacher cannot read its prompt and an answer.
    """
    reads = renderer.build_generation_prompt(list(prompt.messages)).to_ints()
    shown = reads
    if domain.teacher_sees is not None:
        shown = renderer.build_generation_prompt(list(messages_for_teacher(prompt, domain.teacher_sees))).to_ints()
        if len(shown) + room >= teacher.context_length:
            raise invalid(
                f"teacher {teacher.spec}: context",
                f"{teacher.context_length} tokens",
                f"more than {len(shown) + room}: a prompt as the teacher sees it, and max_tokens={room}",
            )
    return Lesson(domain.name, prompt, teacher, reads, shown)
