"""Write docs/settings.md from the fields of `tinsmith.settings.Settings`; a test holds the two together."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from tinsmith.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Every port, path and limit is a field of `tinsmith.settings.Settings`, read from the environment; options of
`tinsmith serve` override them. This page is written by `python scripts/settings_table.py`.

| variable | default | meaning |
|---|---|---|
"""


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


def page() -> str:
    """Return the whole page."""
    rows = [
        f"| {variables(name, field)} | {default(name, field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
