"""Checkpoint paths: `tinker://RUN/KIND/NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tinsmith.types.errors import invalid

CheckpointKind = Literal["weights", "sampler_weights"]
CheckpointType = Literal["training", "sampler"]

# The wire has two words for one thing: the kind in an address, the type in a listing.
_TYPES: dict[str, CheckpointType] = {"weights": "training", "sampler_weights": "sampler"}
# A checkpoint is written to a folder of its name with up to 23 more characters, and file systems end at 255.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
# A run's id holds colons (see `ids`); neither it nor a name can climb out of its folder.
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.-]{0,254}")
# The hosted service's own, so that its scripts and its cookbook read our addresses.
SCHEME = "tinker://"


def check_name(name: str, field: str = "name") -> str:
    """Return a checkpoint name that can be part of a path.

    Raises:
        UserError: it is empty, too long, or has other characters than letters, digits, '_', '-' and '.'.
    """
    if not _NAME.fullmatch(name):
        raise invalid(field, name, "1 to 200 letters, digits, '_', '-' or '.', not beginning with '.' or '-'")
    return name


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """A checkpoint's address.

    Attributes:
        run_id: the training run (the model id).
        kind: `weights` (training state) or `sampler_weights`.
        name: the checkpoint's name.
    """

    run_id: str
    kind: CheckpointKind
    name: str

    @classmethod
    def parse(cls, path: str, field: str = "path") -> CheckpointPath:
        """Read `tinker://RUN/KIND/NAME`.

        Raises:
            UserError: it is no such path.
        """
        parts = path[len(SCHEME) :].split("/") if path.startswith(SCHEME) else []
        if len(parts) != 3 or parts[1] not in _TYPES or not _RUN.fullmatch(parts[0]) or not _NAME.fullmatch(parts[2]):
            raise invalid(field, path, "tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME")
        kind: CheckpointKind = "weights" if parts[1] == "weights" else "sampler_weights"
        return cls(parts[0], kind, parts[2])

    @property
    def checkpoint_id(self) -> str:
        """`KIND/NAME`."""
        return f"{self.kind}/{self.name}"

    @property
    def checkpoint_type(self) -> CheckpointType:
        """`training` or `sampler`."""
        return _TYPES[self.kind]

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.kind}/{self.name}"
