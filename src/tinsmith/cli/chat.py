"""`tinsmith chat`: talk to a model or a checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tinsmith.cli.options import BaseUrl
from tinsmith.types.errors import UserError
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.paths import SCHEME

if TYPE_CHECKING:
    from tinsmith.cookbook.chat import Chat

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL | tinker://PATH]", help="A model's name or folder, or saved weights.")
    ] = EMBEDDED_MODEL,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always says the likeliest.")] = 0.7,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer. Default: up to the context.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message to begin with.")] = None,
    renderer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Chat format. Default: the model's own.", show_default=False)
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Chat with a model; Ctrl-D ends it.

    A message that is piped in is answered once: echo "translate: hello" | tinsmith chat tinker://...
    """
    # The cookbook's packages are an extra, and slow to import: `--help` needs neither.
    from tinsmith.cookbook.chat import Chat

    conversation = Chat.open(
        model_path=model if model.startswith(SCHEME) else None,
        base_model=None if model.startswith(SCHEME) else model,
        base_url=base_url,
        renderer_name=renderer,
        temperature=temperature,
        max_tokens=max_tokens,
        system=system,
    )
    # In a pipe there is nobody to converse with: one answer, and nothing but the answer.
    if not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            raise UserError("message: got an empty input, expected a message on standard input")
        typer.echo(conversation.say(message))
        return
    typer.echo(f"{model}: Ctrl-D ends the chat.")
    _converse(conversation)


def _converse(conversation: Chat) -> None:
    while True:
        try:
            message = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            # The shell's prompt should not stand behind ours.
            typer.echo()
            return
        if message:
            typer.echo(conversation.say(message))
