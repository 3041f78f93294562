"""Metrics to event files that TensorBoard reads."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinsmith.installing import package_command
from tinsmith.types.errors import invalid


def check_tensorboard() -> None:
    """Check that event files can be written, before anything of a run is.

    Raises:
        UserError: tensorboardX is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise invalid("tensorboard", True, f"tensorboardX to be installed: {package_command('tensorboardX')}")


class TensorBoardSink:
    """Event files in a run's folder.

    They are written in step with the run: `SummaryWriter` hands rows to a thread which, once the disk is full, dies
    and leaves the next row waiting for ever.

    Args:
        folder: of the run; the files lie in its `tensorboard`.
        first_step: TensorBoard drops what an earlier part of the run logged from this step on.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        (folder / "tensorboard").mkdir(exist_ok=True)
        # The library's own names differ by second; a run that is taken up at once must not overwrite the last file.
        self._writer = EventsWriter(str(folder / "tensorboard" / "events"), f".{time.time_ns()}.{os.getpid()}")
        # Messages that protobuf makes when it is imported, which type checkers do not see.
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        # TensorBoard drops from its curves what an earlier part logged from this step on: those steps come again.
        self._write(first_step, session_log=self._events.SessionLog(status=self._events.SessionLog.START))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(step, summary=self._summaries.Summary(value=values))

    def _write(self, step: int, **content: object) -> None:
        self._writer.write_event(self._events.Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """End the file."""
        self._writer.close()
