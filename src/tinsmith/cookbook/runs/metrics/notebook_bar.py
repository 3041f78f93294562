"""A progress bar of a notebook: one output of its cell, updated in place, without ipywidgets."""

from __future__ import annotations

import html
import sys
from typing import Any


class NotebookBar:
    """Shows steps done of a total under the running cell.

    Args:
        total: steps in all.
    """

    def __init__(self, total: int) -> None:
        # Only a notebook comes here, and it has IPython.
        from IPython.display import display  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        self._total = total
        # The handle of an output that later ones replace; rich's own bar needs ipywidgets for that, or does not move.
        self._handle: Any = display(self._bundle(0, ""), raw=True, display_id=True)

    def update(self, done: int, text: str) -> None:
        """Show a step.

        Args:
            done: steps done.
            text: metrics and time left.
        """
        self._handle.update(self._bundle(done, text), raw=True)

    def _bundle(self, done: int, text: str) -> dict[str, str]:
        # Both forms, because a notebook that is converted to a script or read on a terminal shows no HTML.
        told = f"step {done}/{self._total}  {text}".rstrip()
        bar = f'<progress value="{done}" max="{self._total}" style="width: 20em"></progress>'
        return {"text/plain": told, "text/html": f"<div>{bar} <code>{html.escape(told)}</code></div>"}


def in_notebook() -> bool:
    """Whether this code runs in a cell whose outputs a page shows, and not in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # A kernel is what a page talks to; IPython in a terminal has none.
    return getattr(shell, "kernel", None) is not None
