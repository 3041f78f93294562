"""Checkpoints that ship inside the package.

`path(name)` gives the folder of one; `tinsmith-tiny` is the only one (see docs/embedded-model.md).
"""

from importlib.resources import files
from pathlib import Path

NAMES = ("tinsmith-tiny",)


def path(name: str = "tinsmith-tiny") -> Path:
    """Folder of a checkpoint that ships with the package, ready for `from_pretrained`.

    Raises ValueError for a name that is not shipped.
    """
    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(NAMES)}")
    return Path(str(files(__name__).joinpath(name)))
