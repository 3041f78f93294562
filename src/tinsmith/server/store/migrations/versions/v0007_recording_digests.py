"""Digests of recorded samples. What was recorded before has none and is read as it is."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"

_COLUMNS = ("prompt_digest", "sequences_digest")


def upgrade() -> None:
    """Add the columns."""
    # Without a batch: a new column at the end needs no copy of the table.
    for column in _COLUMNS:
        op.add_column("recordings", sa.Column(column, sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove them."""
    with op.batch_alter_table("recordings") as batch:
        for column in reversed(_COLUMNS):
            batch.drop_column(column)
