"""Write docs/settings.md from the fields of `tinsmith.settings.Settings`; a test holds the two together."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from tinsmith.settings import ClientSettings, EngineSettings, ServerSettings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Every port, path and limit is a field of `tinsmith.settings.Settings`, read from the environment; options of a command
override them. Each stands under those who read it: a script that talks to a server has no use for the server's. A
service inside your own process reads all three. This page is written by `python scripts/settings_table.py`.
"""
TABLE = """
| variable | default | meaning |
|---|---|---|
"""
GROUPS = {"Client": ClientSettings, "Server": ServerSettings, "Engine": EngineSettings}


def variables(name: str, field: FieldInfo) -> str:
    """Return the environment variables of a field, the first one preferred."""
    if isinstance(field.validation_alias, AliasChoices):
        return ", then ".join(f"`{choice}`" for choice in field.validation_alias.choices)
    return f"`TINSMITH_{name.upper()}`"


def default(name: str, field: FieldInfo) -> str:
    """Return how a field's default reads in the table."""
    if name == "home":
        return "`~/.local/share/tinsmith`"
    return "unset" if field.default is None else f"`{field.default}`"


def section(title: str, group: type[BaseSettings]) -> str:
    """Return the part of the page about a group of settings."""
    rows = [
        f"| {variables(name, field)} | {default(name, field)} | {field.description} |"
        for name, field in group.model_fields.items()
    ]
    return f"\n## {title}\n\n{group.__doc__}\n" + TABLE + "\n".join(rows) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(section(title, group) for title, group in GROUPS.items())


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
