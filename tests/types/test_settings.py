"""Settings come from the environment, and their page in the docs is current."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pydantic import ValidationError

from tinsmith.settings import ClientSettings, EngineSettings, ServerSettings, Settings
from tinsmith.types.environment import read_settings
from tinsmith.types.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def test_the_page_in_the_docs_is_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "settings_table.py"))
    assert (ROOT / "docs" / "settings.md").read_text() == script["page"]()


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.row(20, 21)
def test_our_own_variables_win_over_those_of_the_hosted_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().api_key is None
    monkeypatch.setenv("TINKER_API_KEY", "tml-theirs")
    monkeypatch.setenv("TINKER_BASE_URL", "http://theirs")
    assert (Settings().api_key, Settings().base_url) == ("tml-theirs", "http://theirs")
    monkeypatch.setenv("TINSMITH_API_KEY", "tml-ours")
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://ours")
    assert (Settings().api_key, Settings().base_url) == ("tml-ours", "http://ours")


# Whatever is typed is a name of these: a path, a URL, a key, or what is checked against what the machine has.
TEXTS = {"base_url", "api_key", "home", "host", "database_url", "blob_url", "device", "dtype"}
CHECKED = [name for name in Settings.model_fields if name not in TEXTS]


@pytest.mark.parametrize("name", CHECKED)
def test_a_fault_names_the_variable_that_was_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"TINSMITH_{name.upper()}"
    group = next(g for g in (ClientSettings, ServerSettings, EngineSettings) if name in g.model_fields)
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(UserError, match=rf"^{variable}: got 'maybe', expected (?!got)"):
        read_settings()
    for settings in (Settings, group):
        with pytest.raises(ValidationError) as refused:
            settings()
        assert [fault["loc"] for fault in refused.value.errors()] == [(variable,)]
    # An argument is what its caller set, and wins over the variable.
    with pytest.raises(UserError, match=rf"^{name}: got 'perhaps', expected (?!got)"):
        read_settings(**{name: "perhaps"})


def test_a_variable_is_named_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("tinsmith_port", "70000")
    with pytest.raises(UserError, match=r"^tinsmith_port: got '70000', expected less than or equal to 65535$"):
        read_settings()
    assert Settings.variable("api_key") == "TINSMITH_API_KEY"
    monkeypatch.setenv("TINKER_API_KEY", "tml-theirs")
    assert Settings.variable("api_key") == "TINKER_API_KEY"


def test_all_faults_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_PORT", "70000")
    monkeypatch.setenv("TINSMITH_BATCH_INVARIANT", "maybe")
    with pytest.raises(ValidationError, match=r"(?s)TINSMITH_PORT.*max_datums.*TINSMITH_BATCH_INVARIANT"):
        Settings(max_datums=0)
