"""`Run`: one object that owns a log path, from the settings at the door to the final checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tinsmith.cookbook.runs.interrupts import asked_to_stop, hold, let_go, uninterrupted, watched_signals
from tinsmith.cookbook.runs.intervals import due
from tinsmith.cookbook.runs.jsonl import JsonlWriter, keep_rows, read_rows
from tinsmith.cookbook.runs.metrics.metric_log import MetricLog
from tinsmith.cookbook.runs.metrics.optional_sinks import check_sinks, open_sinks
from tinsmith.cookbook.runs.run_checkpoints import FILE as CHECKPOINTS
from tinsmith.cookbook.runs.run_checkpoints import RunCheckpoints, SavedFinal, SavedState, newest_existing, saved_rows
from tinsmith.cookbook.runs.run_clients import RunClients
from tinsmith.cookbook.runs.run_config import FREE, RunConfig
from tinsmith.cookbook.runs.start.code_version import FILE as STARTS
from tinsmith.cookbook.runs.start.code_version import code_version
from tinsmith.cookbook.runs.start.folder import RESOLVED, check_config, describe, unusable, write_config
from tinsmith.cookbook.runs.start.held_facts import check_facts, note_path, write_facts
from tinsmith.cookbook.runs.start.made_folder import NOTHING_KEPT, MadeFolder, how_to_go_on
from tinsmith.cookbook.runs.start.run_lock import LOCK, NOTE, RunLock
from tinsmith.cookbook.runs.transcripts.run_index import write_index
from tinsmith.cookbook.runs.transcripts.transcript import Transcript
from tinsmith.types.errors import TinsmithError, UserError, invalid

if TYPE_CHECKING:
    from tinsmith import ServiceClient, TrainingClient

logger = logging.getLogger("tinsmith.cookbook")
METRICS = "metrics.jsonl"
TRANSCRIPTS = "transcripts"
CONFIG = "config.json"
# What a start writes about itself and its trackers: of no use where nothing came of it.
_NOTES = frozenset({CONFIG, STARTS, LOCK, NOTE, "tensorboard", "wandb", "wandb_id"})


class Run:
    """A run of a recipe, as a context manager; the same settings on the same log path carry on where it stopped.

    Metrics of step i are those of batch i, counted from 0, and of the evaluation before it; the row of step `total` is
    the final evaluation. A state after `done` steps is recorded once the rows before `done` are on disk, and a run that
    carries on from it drops the rows from `done` on: they come again, with the same values.

    Args:
        config: model, service and folder, and how often to save.
        recipe: its name, which the run and its folder are called after.
        free: names of further settings that may change when a run is taken up again.

    Attributes:
        path: the folder that holds everything of the run.
        first_step: steps that are done already.
        last_state: what it carries on from; None for a run from the start.
        final: the final checkpoint, once it is saved, or `is_finished` has found it.

    Raises:
        UserError: the folder cannot be written, another run has it, it holds a run with other settings that has saved
            a state, the service has none of that run's states any more, or W&B or TensorBoard cannot be used.
    """

    def __init__(self, config: RunConfig, recipe: str, *, free: Collection[str] = ()) -> None:
        self._config = config
        self._recipe = recipe
        self._total: int | None = None
        self._client: TrainingClient | None = None
        self._notes = set(_NOTES)
        self.final: SavedFinal | None = None
        check_sinks(config)
        self._folder = MadeFolder(config.log_path, recipe)
        self.path: Path = self._folder.path
        self._exits = ExitStack()
        self._exits.enter_context(watched_signals())
        self._clients = RunClients(config, recipe, self.path.name, self._exits)
        try:
            # The lock comes before the first look at a file, and goes last.
            self._exits.callback(RunLock(self.path).release)
            self._exits.push(self._give_back)
            self._begin(FREE | frozenset(free))
        except BaseException as error:
            self._exits.__exit__(type(error), error, None)
            if isinstance(error, OSError):
                raise unusable(self.path, error) from error
            raise

    def _begin(self, free: frozenset[str]) -> None:
        described = describe(self._config, self._recipe)
        recorded = read_rows(self.path / CHECKPOINTS)
        if saved_rows(recorded):  # without a state nothing is carried on: whoever mistyped a setting may correct it
            check_config(self.path / CONFIG, described, free)
        self._take_up(recorded)
        # Everything above only looks: what is refused there leaves the folder as it was.
        write_config(self.path / CONFIG, described)
        # The final evaluation belongs to a finished run; should it be made longer, the first new row takes its place.
        rows_to_keep = self.first_step + (self._recorded_final is not None)
        keep_rows(self.path / METRICS, lambda row: row["step"] < rows_to_keep)
        keep_rows(self.path / CHECKPOINTS, lambda row: True)
        keep_rows(self.path / STARTS, lambda row: True)
        # One writer for all files: a checkpoint's row must not reach the disk before the metrics it stands on.
        self._writer = JsonlWriter(self.path)
        self._checkpoints = RunCheckpoints(
            self._writer, recorded, self.first_step, self._clients, self._config.ttl_seconds
        )
        self._log = MetricLog(self._writer, self.path / METRICS, self.first_step)
        self._exits.push(self._close_log)
        open_sinks(self._config, self._log.sinks, self.path, self.first_step, described)
        self._described = described
        # On record once it is known what computes: see `training_client`.
        self._start: dict[str, Any] | None = code_version(self.path, self.first_step)
        self._notes |= {name for name in (self._start.get("diff"),) if name}

    def _take_up(self, recorded: list[dict[str, Any]]) -> None:
        """Find out where the run carries on: at the newest state on record that the service still has."""
        last = newest_existing(recorded, self._clients.rest)
        if last is None and saved_rows(recorded):
            raise invalid(
                "log_path",
                str(self.path),
                "a run of which the service still has a state: the base_url it was made with, or another log_path",
            )
        self.last_state = SavedState(last["step"], last["state_path"]) if last else None
        self.first_step = last["step"] if last else 0
        ended = last is not None and last["kind"] == "final"
        self._recorded_final = SavedFinal(last["state_path"], last["sampler_path"]) if last and ended else None

    def hold(self, name: str, facts: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Note what the run stands on beside its settings, and refuse other facts when it is taken up again.

        Args:
            name: of the facts; they are kept in the run's folder, in `NAME.json`.
            facts: JSON values by name: the hash of the data, the path of a reference model.
            at_once: whether other facts are refused from the first moment, because files that stand on them lie in the
                folder already; otherwise from the first saved state, before which nothing is carried on.

        Raises:
            UserError: a fact differs from the one that is held, which the message names with both values, or the note
                cannot be written.
        """
        note = note_path(self.path, name)
        self._notes.add(note.name)
        if at_once or self.last_state is not None:
            check_facts(note, facts)
        try:
            write_facts(note, facts)
        except OSError as error:
            raise unusable(self.path, error) from error

    # -- clients ------------------------------------------------------------------------------------------------------

    def service_client(self) -> ServiceClient:
        """Return the run's client of the service; its session ends with the run."""
        return self._clients.service()

    def training_client(self) -> TrainingClient:
        """Return a client of the adapter: where the run stopped, else of `load_checkpoint_path`, else a new one.

        Raises:
            UserError: `load_checkpoint_path` is of another model or rank.
        """
        self._client = self._clients.training(self.last_state)
        data = self._client.get_info().model_data
        self._note_start({"device": data.device, "dtype": data.dtype})
        return self._client

    def _note_start(self, computes: Mapping[str, str | None]) -> None:
        if self._start is not None:
            # Of a service that does not say, nothing is known.
            self._writer.append(STARTS, self._start | {name: value for name, value in computes.items() if value})
            self._start = None

    # -- steps --------------------------------------------------------------------------------------------------------

    def is_finished(self, total_steps: int) -> bool:
        """Return whether the run has done its steps and saved the final checkpoint, and say so if it has.

        Raises:
            UserError: it has done more than that.
        """
        if self.first_step > total_steps:
            epochs = getattr(self._config, "epochs", None)
            # The setting that was given is the one to name.
            if self._config.max_steps is None and epochs is not None:
                done = f"these are {total_steps} steps, and the run in {self.path} has done {self.first_step}"
                raise invalid("epochs", epochs, f"more: {done}")
            raise invalid(
                "max_steps", total_steps, f"at least {self.first_step}, which the run in {self.path} has done"
            )
        if self._recorded_final is None or self.first_step != total_steps:
            return False
        self.final = self._recorded_final
        print(f"the run in {self.path} is finished; set epochs or max_steps higher, or choose another log_path")
        return True

    def announce(self, total: int, learning_rate: float, facts: Mapping[str, object]) -> None:
        """Say what the run is about to do, and warn where that is unusual.

        Args:
            total: steps of the whole run.
            learning_rate: the peak.
            facts: what else to tell, by name: rows, renderer, ...; `config.json` has all of it as `resolved`.
        """
        facts = {"trains": self._clients.trained_parts(self.last_state).words(), **facts}
        resolved = {name.replace(" ", "_"): value for name, value in facts.items()}
        resolved = {"learning_rate": learning_rate, "steps": total, **resolved}
        write_config(self.path / CONFIG, {**self._described, RESOLVED: resolved})
        told = {"run": self.path, "model": self._config.model_name, "steps": total, "rate": f"{learning_rate:g}"}
        if self.last_state is not None:
            told["goes on"] = f"after step {self.first_step}, from {self.last_state.path}"
        self._log.console.header({**told, **facts})
        self._log.watches.plan(self._config.model_name, learning_rate, total)

    def steps(self, total: int) -> Iterator[int]:
        """Yield the steps that are left, the first is `first_step`; shows progress meanwhile.

        Ctrl-C and SIGTERM wait for the end of the step. Where its row is logged by then, its state is saved.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        self._total = total
        self._log.console.start(self.first_step, total)
        try:
            for step in range(self.first_step, total):
                hold()
                yield step
                let_go()
                if asked_to_stop():
                    if self._client is not None:
                        self.save_done(step + 1, self._client)
                    raise KeyboardInterrupt
        finally:
            let_go()

    # -- metrics ------------------------------------------------------------------------------------------------------

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the one row of metrics of a step; steps come in order.

        A fault of the disk or of a sink raises nothing: it is warned about once, and the row is kept and tried again.

        Raises:
            UserError: the step, or one after it, has a row already.
        """
        self._note_start({})  # of a run that has clients of its own
        self._log.add(step, metrics)

    def logged(self, step: int) -> dict[str, float]:
        """Return the metrics on record of a step; empty where it has no row, or somebody has removed the file."""
        rows = [row for row in read_rows(self.path / METRICS) if row["step"] == step]
        return {name: value for row in rows for name, value in row.items() if name != "step"}

    def transcript(self, step: int) -> Transcript:
        """Return a page to fill, as a context manager: `transcripts/step-000010.html`, listed in `index.html` there."""
        return Transcript(self.path / TRANSCRIPTS, step, self._recipe)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save_due(self, done: int, training_client: TrainingClient) -> None:
        """Ask, without waiting, for the checkpoint that is due after `done` steps, if one is.

        To be called after that step's `optim_step` and before the next step's operations; the last step's is
        `save_final`'s.
        """
        if done == self._total:
            return
        if due(done, self._config.save_every):
            self._checkpoints.submit(done, "periodic", training_client)
        elif due(done, self._config.rolling_save_every):
            self._checkpoints.submit(done, "rolling", training_client)

    def save_now(self, done: int, training_client: TrainingClient) -> None:
        """Save and record a state before an error ends the run, so that no step is done anew; the next one replaces it.

        The rows before `done` are logged by then.
        """
        self.settle(done)
        if done > self._checkpoints.recorded:
            self._checkpoints.submit(done, "rolling", training_client)
            self.settle(done)

    def save_done(self, done: int, training_client: TrainingClient) -> None:
        """Save and record the state after `done` steps, because somebody stops the run.

        Where their rows are not logged, nothing is saved: the state would count on them. What cannot be saved is a
        warning: the run ends all the same.
        """
        if self._log.next_step != done:
            return
        with uninterrupted():
            try:
                self.save_now(done, training_client)
            except (TinsmithError, UserError) as error:
                logger.warning(f"the steps since the last checkpoint are not saved ({error})")

    def settle(self, done: int) -> None:
        """Wait for the checkpoints of up to `done` steps and record them; the rows before `done` are logged by then.

        Raises:
            UserError: they are not.
            RequestFailedError: the service refuses what was asked for, as it would every time.
        """
        if self._log.next_step < done:
            raise invalid("settle", done, f"at most {self._log.next_step}: rows are logged before a checkpoint counts")
        self._checkpoints.settle(done)

    def save_final(self, total: int, training_client: TrainingClient) -> SavedFinal:
        """Save and record state and sampler weights that never expire; the final evaluation is logged by then.

        Raises:
            TinsmithError: the service could not save them.
        """
        with uninterrupted():
            self.final = self._checkpoints.save_final(total, training_client)
        return self.final

    # -- end ----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        let_go()
        try:
            if error is None:
                self.settle(self._log.next_step)
        finally:
            self._exits.__exit__(kind, error, trace)
        # The last lines of a run are what to do with it.
        if error is None and self.final is not None:
            path = self.final.sampler_path
            where = f" --base-url {self._config.base_url}" if self._config.base_url else ""
            print(f"saved {path}\nchat with it: tinsmith chat {path}{where}")

    def _close_log(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note_start({})
        self._log.close(failed=error is not None)
        self._close_index()
        for file, rows in self._writer.unwritten().items():
            logger.error(f"{self.path / file}: {len(rows)} rows could not be written and are lost")
            if file == CHECKPOINTS:
                logger.error(f"checkpoints that are saved but not on record: {' '.join(rows)}")
        stopped = isinstance(error, KeyboardInterrupt)  # which says in one line how to go on
        if error is not None and not stopped and self._log.next_step > self.first_step:
            done = self._checkpoints.recorded
            logger.warning(
                f"the run stopped after {self._log.next_step} steps; the same command with log_path={self.path} "
                + (f"carries on after step {done}" if done else "begins anew: no checkpoint is recorded yet")
            )

    def _close_index(self) -> None:
        """Bring the index of the transcripts up to the last row of metrics, which comes after the last page."""
        folder = self.path / TRANSCRIPTS
        if not folder.is_dir():
            return
        try:
            write_index(folder, self._recipe)
        except (OSError, UserError) as error:
            logger.warning(f"{folder / 'index.html'}: the last rows are not in it ({error})")

    def _give_back(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no folder where nothing was done, and say how a run that was stopped goes on."""
        if error is None:
            return
        done = self._log.next_step if hasattr(self, "_log") else 0
        given_back = done == 0 and self._folder.give_back(self._notes)
        if isinstance(error, KeyboardInterrupt):
            error.add_note(NOTHING_KEPT if given_back else how_to_go_on(self.path, self._told_done(done)))

    def _told_done(self, done: int) -> str:
        saved = self._checkpoints.recorded if done else 0
        if not done:
            return "stopped"
        told = "all saved" if saved == done else f"{saved} of them saved" if saved else "none of them saved"
        return f"stopped after {done} step{'s' * (done != 1)}, {told}"
