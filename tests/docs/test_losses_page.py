"""The losses page: its table is the table of the service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinsmith.types.facts.loss_table import LOSSES

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.mark.row(79, 203)
def test_the_table_has_every_loss_with_its_inputs_and_defaults() -> None:
    _, *rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", PAGE.partition("\n## ")[0], flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == list(LOSSES)
    reads = ""
    for name, inputs, config in rows:
        # "the same" is that of the row above.
        reads = inputs.replace("the same", reads)
        spec = LOSSES[name]
        found = set(re.findall(r"`(\w+)`", reads))
        assert found == {*spec.required, *spec.optional} - ({"logprobs"} if spec.recorded else set()), name
        defaults = dict(re.findall(r"`(\w+)`(?: \(([\d.]+)\))?", config))
        assert defaults == {key: "" if value is None else str(value) for key, value in spec.config.items()}, name
