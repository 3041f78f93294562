"""Templates to pages: any text is safe, and a name that is missing is an error."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **facts: Any) -> str:
    """Return a page."""
    return _environment().get_template(template).render(written=f"{datetime.now():%Y-%m-%d %H:%M}", **facts)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("tinsmith.cookbook.runs.transcripts"),
        # Text of a model may be HTML, and scripts in it: it is shown, never run.
        autoescape=True,
        # A misspelt name in a template is an error, not a gap in a page.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
