"""Numbers that nobody gave, by the size of the data: a recipe that suits ten thousand rows has to run on sixty, too."""

from __future__ import annotations

from tinsmith.cookbook.notices import tell_once

# Of few rows, a tenth is held out: of less, what is measured says nothing; of more, too little is left to learn.
_SHARE = 10
# Batches that an epoch has at least: the optimizer needs some steps to get anywhere.
_BATCHES = 10


def held_out_count(held_out: float | None, total: int, usual: int, what: str = "rows") -> int:
    """Return how many rows are held out.

    Args:
        held_out: a number of rows, or below 1.0 (a float) the share of them; None: the usual number, or a tenth where
            there are fewer than ten times as many, which is told.
        total: rows that there are.
        usual: rows of a recipe that are held out where there are enough.
        what: the rows are called.

    Returns:
        The number; whether it leaves any to train on is for the caller to check.
    """
    if held_out is not None:
        return round(held_out * total) if isinstance(held_out, float) and held_out < 1 else int(held_out)
    if total >= _SHARE * usual:
        return usual
    # At least one, if another is left to learn from.
    count = max(total // _SHARE, 1 if total > 1 else 0)
    tell_once(
        f"held_out {total} {what}",
        f"held_out: {count} of {total} {what} are not trained on, a tenth (of {_SHARE * usual:,} or more it would be "
        f"{usual}); held_out= says otherwise",
    )
    return count


def rows_per_batch(batch_size: int | None, epoch_size: int, usual: int, what: str = "rows") -> int:
    """Return the size of a batch.

    Args:
        batch_size: as asked for; None: the usual size, or the largest power of two with which an epoch has ten batches,
            which is told.
        epoch_size: rows that an epoch goes through.
        usual: size of a recipe's batches where there are enough rows.
        what: the rows are called.
    """
    if batch_size is not None:
        return batch_size
    most = max(epoch_size // _BATCHES, 1)
    if most >= usual:
        return usual
    size = 1 << (most.bit_length() - 1)
    tell_once(
        f"batch_size {epoch_size} {what}",
        f"batch_size: {size} {what}, so that the {epoch_size} of an epoch fill {epoch_size // size} batches (of "
        f"{_BATCHES * usual:,} or more a batch would have {usual}); batch_size= says otherwise",
    )
    return size
