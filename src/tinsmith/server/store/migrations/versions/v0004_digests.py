"""Digests of what is stored, and which data folder the database belongs to.

What was stored before has no digest and is read as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_DIGESTS = (
    ("operations", "outcome_digest"),
    ("runs", "base_weights"),
    ("samplers", "base_weights"),
)


def upgrade() -> None:
    """Add the columns and the table."""
    # Without a batch: a new column at the end needs no copy of a table that may hold a long journal.
    for table, column in _DIGESTS:
        op.add_column(table, sa.Column(column, sa.Text(), nullable=True))
    op.create_table(
        "data_folder",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("starts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_folder")),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("data_folder")
    for table, column in reversed(_DIGESTS):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
