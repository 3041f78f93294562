"""Settings come from the environment, and their page in the docs is current."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pydantic import ValidationError

from tinsmith.settings import Settings, get_settings

ROOT = Path(__file__).parent.parent.parent


def test_the_page_in_the_docs_is_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "settings_table.py"))
    assert (ROOT / "docs" / "settings.md").read_text() == script["page"]()


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.row(20, 21)
def test_our_own_variables_win_over_those_of_the_hosted_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_settings().api_key is None
    monkeypatch.setenv("TINKER_API_KEY", "tml-theirs")
    monkeypatch.setenv("TINKER_BASE_URL", "http://theirs")
    assert (get_settings().api_key, get_settings().base_url) == ("tml-theirs", "http://theirs")
    monkeypatch.setenv("TINSMITH_API_KEY", "tml-ours")
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://ours")
    assert (get_settings().api_key, get_settings().base_url) == ("tml-ours", "http://ours")


def test_a_value_out_of_range_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_PORT", "70000")
    with pytest.raises(ValidationError, match="port"):
        get_settings()
