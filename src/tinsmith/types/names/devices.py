"""What devices and dtypes are called in settings and on the command line; checked without torch."""

from __future__ import annotations

import re

from tinsmith.types.errors import invalid

# `auto` leaves the choice to the engine.
AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16", "float64")
DEVICE_WORDS = "cpu, cuda or cuda:N"
DTYPE_WORDS = f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_device_name(field: str, device: str) -> None:
    """Check a device's name; whether there is such a device, the engine finds out.

    Raises:
        UserError: it is none.
    """
    if not _DEVICE.fullmatch(device):
        raise invalid(field, device, f"{AUTO}, {DEVICE_WORDS}")


def check_dtype_name(field: str, dtype: str) -> None:
    """Check the name of a compute dtype.

    Raises:
        UserError: it is none.
    """
    if dtype not in (AUTO, *DTYPES):
        raise invalid(field, dtype, f"{AUTO}, {DTYPE_WORDS}")
