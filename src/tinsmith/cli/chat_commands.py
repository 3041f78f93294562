"""The commands of a chat, `/help` and its like: what somebody may type beside messages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinsmith.types.errors import UserError, invalid

if TYPE_CHECKING:
    from tinsmith.cookbook.chat import Chat


class ChatCommand(NamedTuple):
    """A command of a chat.

    Attributes:
        argument: what may stand behind its name; empty where nothing may.
        meaning: for `/help`.
        run: does it, and returns what to print.
    """

    argument: str
    meaning: str
    run: Callable[[Chat, str], str]


def run_command(chat: Chat, line: str) -> str:
    """Do what a line that begins with a slash says, and return what to print.

    Raises:
        UserError: there is no such command, or it cannot be done.
    """
    name, _, argument = line.removeprefix("/").partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = get_close_matches(name, COMMANDS, n=1)
        meant = f" (did you mean /{near[0]}?)" if near else ""
        raise UserError(f"there is no command /{name}{meant}; /help lists them, and // begins a message with a slash")
    if argument.strip() and not command.argument:
        raise invalid(f"/{name}", argument.strip(), "nothing behind it")
    return command.run(chat, argument.strip())


def _help(chat: Chat, _: str) -> str:
    names = [f"/{name} {command.argument}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, names))
    lines = [f"{name:<{width}}  {command.meaning}" for name, command in zip(names, COMMANDS.values(), strict=True)]
    return "\n".join([*lines, "Ctrl-C stops an answer, pressed twice it leaves; so does Ctrl-D."])


def _reset(chat: Chat, _: str) -> str:
    chat.reset()
    return "what was said is forgotten" + ("" if chat.system is None else "; the system message stays")


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.system = None if text == "none" else text
    return "no system message" if chat.system is None else f"system: {chat.system}"


def _tools(chat: Chat, file: str) -> str:
    if file == "none":
        chat.tools = ()
    elif file:
        chat.use_tools(Path(file).expanduser())
    names = [str(tool["function"]["name"]) for tool in chat.tools]
    return f"tools: {', '.join(names)}" if names else "no tools"


def _save(chat: Chat, file: str) -> str:
    if not chat.messages:
        raise UserError("/save: nothing was said yet")
    path = Path(file or time.strftime("chat-%Y%m%d-%H%M%S.jsonl")).expanduser()
    chat.save(path)
    return f"saved to {path}"


def _temperature(chat: Chat, text: str) -> str:
    if text:
        try:
            value = float(text)
        except ValueError:
            value = -1.0  # no number is no better than a negative one
        if not 0 <= value < math.inf:
            raise invalid("/temperature", text, "a number, 0 or more")
        chat.temperature = value
    return f"temperature: {chat.temperature:g}"


COMMANDS = {
    "help": ChatCommand("", "list the commands", _help),
    "reset": ChatCommand("", "forget what was said", _reset),
    "system": ChatCommand("TEXT", "set the system message; none takes it away, nothing shows it", _system),
    "tools": ChatCommand("FILE", "let the model call the tools of a JSON file; none takes them away", _tools),
    "temperature": ChatCommand("NUMBER", "0 always says the likeliest", _temperature),
    "save": ChatCommand("FILE", "append the conversation to a JSONL file, as a row to train on", _save),
    "exit": ChatCommand("", "leave", lambda chat, _: ""),
}
