"""Numbers that JSON cannot say, found before a request is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from tinsmith.types.errors import invalid


def check_finite(body: Mapping[str, Any], within: str = "") -> None:
    """Check that a JSON body has no number that JSON cannot say.

    Args:
        body: an object of values and objects.
        within: path of the object in the whole body, ending in a dot.

    Raises:
        UserError: a number is NaN or infinite; the message names its field.
    """
    for key, value in body.items():
        if isinstance(value, Mapping):
            check_finite(cast("Mapping[str, Any]", value), f"{within}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise invalid(f"{within}{key}", value, "a finite number")
