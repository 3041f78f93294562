"""Tasks of Inspect AI for the tests: letters that the embedded model can handle, and a tool that it can call."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact, match
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool

WORDS = ("fox", "hello", "tin", "smith")


@task
def copying(verb: str = "copy") -> Task:
    samples = [Sample(input=f"{verb}: {word}", target=word) for word in WORDS]
    return Task(dataset=samples, solver=generate(), scorer=[exact(), match()])


@tool
def lookup() -> Tool:
    async def execute(key: str) -> str:
        """Look up the value of a key.

        Args:
            key: the key.
        """
        return f"{key[::-1]} 12"

    return execute


@task
def looking_up() -> Task:
    samples = [Sample(input=f"Look up {word}.", target=f"{word[::-1]} 12") for word in WORDS]
    return Task(dataset=samples, solver=[use_tools(lookup()), generate()], scorer=exact())
