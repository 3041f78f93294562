"""Weights of keys: how much of the engine's time their owner gets beside others. Keys from before weigh 1."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("api_keys", sa.Column("weight", sa.Float(), nullable=False, server_default="1"))


def downgrade() -> None:
    """Remove it."""
    with op.batch_alter_table("api_keys") as batch:
        batch.drop_column("weight")
