"""Supervised training: rows in, a trained adapter out, on the skeleton of `cookbook/training`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinsmith.cookbook.batches.held_out import split_held_out
from tinsmith.cookbook.eval import Evaluator, NLLEvaluator, SampledAnswers
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.supervised.config import FREE, RowTrainingConfig, SupervisedConfig
from tinsmith.cookbook.supervised.trainer import SupervisedTrainer
from tinsmith.cookbook.training import Evaluation, ModelSetup, TrainResult, run_trainer, set_up_model


def train(
    config: SupervisedConfig,
    recipe: str,
    *,
    rows: Sequence[Row] | RowStream | None = None,
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Train on rows, evaluate, and save; the same call on the same log path carries on where it stopped.

    Evaluations are done before the first batch, then every `eval_every` batches, and after the last.

    Args:
        config: data, model, how it is learned, and where the run lies.
        recipe: its name, which the run and its folder are called after.
        rows: what to learn from; None takes what `config.data` names.
        evaluators: measured beside the loss on held-out rows.

    Returns:
        What the run came to; of a run that was finished already, too.

    Raises:
        UserError: a setting or a row cannot be used, or another run has the log path.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same call carries on.
        TinsmithError: the service failed.
    """
    with Run(config, recipe, free=FREE) as run:
        model = set_up_model(run, config)
        if rows is None:
            rows = config.load_rows(model.renderer)
        # Split before anything is rendered: what is held out is never seen by the trainer.
        learned, held_out = split_rows(config, run, rows)
        return train_on_rows(config, run, model, learned, held_out=held_out, evaluators=evaluators)


def split_rows(
    config: RowTrainingConfig, run: Run, rows: Sequence[Row] | RowStream
) -> tuple[Sequence[Row] | RowStream, Sequence[Row]]:
    """Hold a run to its rows, and return those to train on and those that are held out.

    Raises:
        UserError: the run was begun with other rows, or none is left to train on.
    """
    if isinstance(rows, RowStream):
        # Nobody can look at a stream as a whole, nor say what a tenth of it is.
        asked = config.usual_held_out if config.held_out is None else config.held_out
        return split_held_out(rows, asked, config.seed)
    # All rows are compared, held-out ones included, which decide the split.
    run.hold("data", as_rows(rows).facts())
    asked = config.held_out
    if asked is None:
        asked = held_out_count(None, len(rows), config.usual_held_out)
    return split_held_out(rows, asked, config.seed)


def train_on_rows(
    config: RowTrainingConfig,
    run: Run,
    model: ModelSetup,
    rows: Sequence[Row] | RowStream,
    *,
    held_out: Sequence[Row] = (),
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Train in a run that is open already: for recipes that need its folder or its model before they have all rows.

    Args:
        config: how the rows are learned.
        run: entered, and held to its rows (`split_rows`).
        model: renders them.
        rows: what to learn from, without what is held out.
        held_out: rows that are not learned; with some, their loss is measured and answers to them are shown.
        evaluators: measured beside them.

    Raises:
        As `train`.
    """
    trainer = SupervisedTrainer(config, model, rows)
    if held_out:
        nll = NLLEvaluator(held_out, max_length=config.max_length, train_on_what=config.train_on_what)
        samples = SampledAnswers(held_out, config.samples, max_tokens=config.max_tokens)
        evaluators = [nll, samples, *evaluators]
    evaluation = Evaluation(config, run, model, evaluators)
    remarks = {} if isinstance(rows, RowStream) else as_rows(rows).remarks()
    facts = _facts(trainer, len(held_out), model.renderer.name, remarks)
    return run_trainer(trainer, run, trainer.rates, evaluation, facts)


def _facts(
    trainer: SupervisedTrainer, held_out: int, renderer: str, remarks: Mapping[str, object]
) -> dict[str, object]:
    """Return what is told at the start of a run, by name."""
    batches = trainer.batches
    facts: dict[str, object] = {"rows": "a stream"}
    if batches.per_epoch is not None and batches.left_out is not None:
        # What fills no batch was never put into one, but it is part of the data.
        facts["rows"] = batches.per_epoch * batches.batch_size + batches.left_out
        facts["left out of each epoch"] = batches.left_out
    facts |= {"held out": held_out, "batch size": batches.batch_size, "renderer": renderer}
    return {**facts, **remarks}
