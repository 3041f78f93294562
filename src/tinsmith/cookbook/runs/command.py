"""The command line of a recipe: `name=value` for any field of its config, `--help`, and errors of one line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import chz
from chz.blueprint import Castable, InvalidBlueprintArg

from tinsmith.cookbook.runs.fields import choices, near, words
from tinsmith.cookbook.runs.help import show_help
from tinsmith.cookbook.runs.interrupts import has_stepped, watched_signals
from tinsmith.logs import PlainLines, tell_starts
from tinsmith.types.errors import StartupError, TinsmithError, UserError, invalid, one_line

C = TypeVar("C")

# Names that people type out of habit, for the field that is meant, where a config has it.
ALIASES = {
    "bs": "batch_size",
    "checkpoint": "load_checkpoint_path",
    "dataset": "data",
    "file_path": "data",
    "log_dir": "log_path",
    "lr": "learning_rate",
    "model": "model_name",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "output_dir": "log_path",
    "rank": "lora_rank",
    "renderer": "renderer_name",
    "steps": "max_steps",
    "url": "base_url",
    "wandb": "wandb_project",
}
# What a shell says of a program that Ctrl-C has ended.
_INTERRUPTED = 130
_DEBUG = "--debug"


def run_recipe(
    main: Callable[[C], object], config_class: type[C], recipe: str, argv: Sequence[str] | None = None
) -> None:
    """Run a recipe with the settings of a command line.

    Args:
        main: the recipe.
        config_class: its settings, a chz class; every field has a default.
        recipe: its name, which errors begin with.
        argv: the arguments; None takes those of the program.

    Raises:
        SystemExit: 2 after an error that is the user's or the service's to mend, 1 after any other error before the
            first step, 130 after Ctrl-C or SIGTERM. With `--debug` errors come with all their frames instead.
    """
    # First, so that a warning of reading the settings is told, too.
    _tell_warnings()
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h", "help"} & set(argv):
        show_help(main, config_class, recipe, ALIASES)
        return
    debug = _DEBUG in argv
    with watched_signals():
        try:
            main(parse(config_class, [argument for argument in argv if argument != _DEBUG]))
        except KeyboardInterrupt as stop:
            notes = getattr(stop, "__notes__", None) or ["stopped"]
            _end(_INTERRUPTED, f"{recipe}: {notes[-1]}")
        except Exception as error:
            # A fault in the midst of hours of training keeps its frames: nobody wants to bring it about again.
            meant = isinstance(error, UserError | TinsmithError | StartupError)
            if debug or (has_stepped() and not meant):
                raise
            if meant:
                _end(2, f"{recipe}: {error}")
            _end(1, f"{recipe}: {one_line(error)}; --debug shows where it comes from")


def parse(config_class: type[C], argv: Sequence[str]) -> C:
    """Read a config from `name=value`, `--name=value` and `--name value`; `--name` alone sets a flag.

    A setting that is a table of numbers is given as a whole, `name={"key": 1.5}`, or by its keys, `name.key=1.5`.

    Raises:
        UserError: a name is unknown or given twice, or a value does not fit.
    """
    given = _pairs(config_class, argv)
    try:
        return _make(config_class, given)
    # chz's own message names types of Python. One setting after the other, to find the one at fault and say it in
    # words.
    except InvalidBlueprintArg:
        for name, text in given.items():
            _check_value(config_class, name, text)
        raise


def _pairs(config_class: type[object], argv: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    tables: dict[str, dict[str, float]] = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        key, equals, text = argument.partition("=")
        hyphens = key.startswith("--")
        key = key.removeprefix("--").replace("-", "_") if hyphens else key
        if not key or not (equals or hyphens):
            raise invalid("command line", argument, "name=value, e.g. batch_size=64; --help lists the names")
        name, _, entry = key.partition(".")
        name = _field(config_class, name)
        if entry:
            _add_entry(config_class, tables, (name, entry), text)
            continue
        if not equals:
            text = _value_after(config_class, name, rest)
        if name in found:
            raise invalid(name, f"{found[name]} and {text}", "one value")
        found[name] = text
    for name, table in tables.items():
        if name in found:
            raise invalid(name, f"{found[name]} and {name}.{next(iter(table))}", "the table as a whole, or its keys")
        found[name] = json.dumps(table)
    return found


def _add_entry(config_class: type[object], tables: dict[str, dict[str, float]], at: tuple[str, str], text: str) -> None:
    name, entry = at
    if "dict" not in str(chz.chz_fields(config_class)[name].final_type):
        raise invalid("command line", f"{name}.{entry}", f"{name}={text}, as this setting has no keys")
    table = tables.setdefault(name, {})
    if entry in table:
        raise invalid(f"{name}.{entry}", f"{table[entry]:g} and {text}", "one value")
    try:
        table[entry] = float(text)
    except ValueError as error:
        raise invalid(f"{name}.{entry}", text, "a number") from error


def _field(config_class: type[object], key: str) -> str:
    fields = chz.chz_fields(config_class)
    name = key if key in fields else ALIASES.get(key, key)
    if name not in fields:
        meant = near(key, [*fields, *(alias for alias, field in ALIASES.items() if field in fields)])
        raise invalid("command line", key, f"the name of a setting{meant}; --help lists them")
    return name


def _value_after(config_class: type[object], name: str, rest: list[str]) -> str:
    if rest and not rest[0].startswith("--"):
        return rest.pop(0)
    # `--tensorboard` alone is a flag; every other setting needs a value.
    if chz.chz_fields(config_class)[name].final_type is bool:
        return "true"
    raise invalid(name, "", words(chz.chz_fields(config_class)[name].final_type))


def _make(config_class: type[C], given: dict[str, str]) -> C:
    return chz.Blueprint(config_class).apply({name: Castable(text) for name, text in given.items()}).make()


def _check_value(config_class: type[object], name: str, text: str) -> None:
    try:
        _make(config_class, {name: text})
    except InvalidBlueprintArg:
        kind = chz.chz_fields(config_class)[name].final_type
        raise invalid(name, text, words(kind) + near(text, choices(kind))) from None
    except UserError:
        return  # it can be read; whether it suits is for the settings as a whole


def _end(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)


def _tell_warnings() -> None:
    tell_starts()
    handler = PlainLines()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("tinsmith.cookbook").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # offline it logs every try; we say it once
