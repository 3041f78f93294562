"""Settings from the environment, with a fault of them in one line that names what was set."""

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
        UserError: one cannot be used; names the variable, or the argument.
    """
    # Needs pydantic-settings, which an import of the SDK does not wait for.
    from pydantic import ValidationError

    from tinsmith.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise invalid(str(first["loc"][0]), first["input"], expected) from error
