"""Settings from the environment, with a fault of them in one line that names the variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinsmith.types.errors import invalid

if TYPE_CHECKING:
    from tinsmith.settings import Settings


def read_settings(**given: Any) -> Settings:
    """Return the settings as the environment has them now.

    Args:
        given: settings that take the place of those of the environment.

    Raises:
        UserError: one cannot be used.
    """
    # Needs pydantic-settings, which an import of the SDK does not wait for.
    from pydantic import ValidationError

    from tinsmith.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        variable = field if field.isupper() else f"TINSMITH_{field.upper()}"
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise invalid(variable, first["input"], expected) from error
