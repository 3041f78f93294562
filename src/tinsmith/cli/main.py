"""`tinsmith`: the root of the command line."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tinsmith.types.errors import TinsmithError, UserError

# In the order in which a newcomer meets them.
COMMANDS = {
    "demo": "tinsmith.cli.demo",
    "chat": "tinsmith.cli.chat",
    "serve": "tinsmith.cli.serve",
    "run": "tinsmith.cli.catalogue.runs",
    "checkpoint": "tinsmith.cli.checkpoint",
    "key": "tinsmith.cli.key",
}


class LazyGroup(TyperGroup):
    """Commands whose modules are imported when they are called or listed; errors of ours end in one line."""

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

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        # Errors that are meant for the user; any other is a fault of ours, and keeps its traceback.
        except (UserError, TinsmithError) as error:
            typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from None
        except ModuleNotFoundError as error:
            extra = _EXTRA_OF.get((error.name or "").split(".")[0])
            if extra is None:
                raise
            message = f"error: this command needs {error.name}, which is not installed: pip install 'tinsmith[{extra}]'"
            typer.secho(message, err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from None


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
) -> None:
    """Take the options that come before a command."""


if __name__ == "__main__":
    app()
