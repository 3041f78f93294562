"""`tinsmith`: the root of the command line."""

from __future__ import annotations

import gc
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tinsmith.cli.recipe_names import RECIPES
from tinsmith.types.errors import StartupError, TinsmithError, UserError, one_line

# Importing a library makes many objects that all stay: with Python's usual threshold, a tenth of the time of a short
# command goes into looking through them for garbage.
gc.set_threshold(50_000)

# In the order in which a newcomer meets them.
COMMANDS = {
    "demo": "tinsmith.cli.demo",
    "train": "tinsmith.cli.train",
    "chat": "tinsmith.cli.chat",
    "serve": "tinsmith.cli.serve",
    "run": "tinsmith.cli.catalogue.runs",
    "checkpoint": "tinsmith.cli.checkpoint",
    "key": "tinsmith.cli.key",
}
_DEBUG = "--debug"
# What a shell says of a program that Ctrl-C has ended.
INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """Commands whose modules are imported when they are called or listed; errors end in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        # Here and not at the top: one command should not wait for the imports of all.
        command = typer.main.get_command(import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name  # a group of commands does not know what it is called here
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command, and `--debug` wherever it stands: nobody types it first."""
        if _DEBUG in args[1:]:
            args = [_DEBUG, *(argument for argument in args if argument != _DEBUG)]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that was typed; one that there is not is named, with the nearest that there is."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            found = get_close_matches(args[0], [*COMMANDS, *RECIPES], n=1)
            command = f"train {found[0]}" if found and found[0] in RECIPES else "".join(found)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {command!r}?" if command else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        # What click itself raises is its own business: usage, exit codes, Ctrl-C at a question.
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            message = _line(error)
            if message is None:
                raise
            typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _line(error: Exception) -> str | None:
    """Return an error in one line; None where it is click's, which prints it by itself."""
    if isinstance(error, UserError | TinsmithError | StartupError):
        return str(error)
    if hasattr(error, "exit_code"):
        return None
    extra = _EXTRA_OF.get((error.name or "").split(".")[0]) if isinstance(error, ModuleNotFoundError) else None
    if extra is not None:
        name = getattr(error, "name", "")
        from tinsmith.installing import install_command

        return f"this command needs {name}, which is not installed: {install_command(extra)}"
    return f"{one_line(error)}; --debug shows where it comes from"


# What is missing when an extra is not installed.
_EXTRA_OF = {
    **dict.fromkeys(("chz", "datasets", "matplotlib"), "cookbook"),
    **dict.fromkeys(("alembic", "fastapi", "sqlalchemy", "torch", "transformers", "uvicorn"), "server"),
}

app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune and sample language models: in this process or on a server.",
)


def _show_version(value: bool) -> None:
    if value:
        import tinsmith

        typer.echo(f"tinsmith {tinsmith.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Take the options that come before a command."""
    from tinsmith.logs import tell_starts

    tell_starts()


if __name__ == "__main__":
    app()
