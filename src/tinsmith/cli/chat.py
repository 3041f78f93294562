"""`tinsmith chat`: talk to a model or a checkpoint."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinsmith.cli.chat_commands import run_command
from tinsmith.cli.options import BaseUrl
from tinsmith.types.errors import TinsmithError, UserError
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.paths import SCHEME

if TYPE_CHECKING:
    from tinsmith.cookbook.chat import Chat
    from tinsmith.cookbook.renderers import Message

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
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tools that the model may call, as JSON.", show_default=False)
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Chat with a model; /help lists the commands of a chat, Ctrl-D ends it.

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
    if tools is not None:
        conversation.use_tools(tools)
    # In a pipe there is nobody to converse with: one answer, and nothing but the answer.
    if not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            raise UserError("message: got an empty input, expected a message on standard input")
        _tell(conversation.add({"role": "user", "content": message}))
        return
    typer.echo(f"{model}: /help lists the commands, Ctrl-D ends the chat")
    with suppress(ImportError):
        import readline  # noqa: F401  # `input` edits lines and knows the earlier ones, where there is one
    converse(conversation)


def converse(chat: Chat) -> None:
    """Read messages and commands and answer them, until the input ends or Ctrl-C is pressed twice."""
    pressed = False
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            typer.echo()  # the shell's prompt should not stand behind ours
            return
        except KeyboardInterrupt:
            typer.echo()
            if pressed:
                return
            pressed = True
            typer.echo("Ctrl-C again leaves, so does Ctrl-D")
            continue
        pressed = False
        if line == "/exit":
            return
        try:
            _take(chat, line)
        except KeyboardInterrupt:
            pressed = True
            typer.echo("\nstopped; Ctrl-C again leaves")
        except (UserError, TinsmithError) as error:
            typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)


def _take(chat: Chat, line: str) -> None:
    if line.startswith("/") and not line.startswith("//"):
        typer.echo(run_command(chat, line))
    elif line:
        answer = chat.add({"role": "user", "content": line.removeprefix("/") if line.startswith("//") else line})
        _tell(answer)
        # What a tool gives is not for the model to say: whoever chats plays the tool, until an answer calls none.
        while calls := answer.get("tool_calls"):
            results: list[Message] = []
            for call in calls:
                name = call["function"]["name"]
                result: Message = {"role": "tool", "name": name, "content": input(f"result of {name}> ")}
                if call.get("id"):
                    result["tool_call_id"] = call["id"]
                results.append(result)
            answer = chat.add(*results)
            _tell(answer)


def _tell(answer: Message) -> None:
    from tinsmith.cookbook.renderers import get_text_content

    thought = answer.get("reasoning_content")
    if thought:
        typer.secho(thought, dim=True)
    # An answer may be nothing but calls; one that is empty is told, too.
    if answer["content"] or not answer.get("tool_calls"):
        typer.echo(get_text_content(answer))
    for call in answer.get("tool_calls") or ():
        typer.echo(f"calls {json.dumps(call['function'], ensure_ascii=False)}")
