"""Recordings of sampled sequences, which a loss may name."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "recordings",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.LargeBinary(), nullable=False),
        sa.Column("sequences", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_recordings_session_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_recordings")),
    )
    op.create_index(op.f("ix_recordings_owner_used_at"), "recordings", ["owner", "used_at"], unique=False)
    op.create_index(op.f("ix_recordings_session_id"), "recordings", ["session_id"], unique=False)


def downgrade() -> None:
    """Remove it."""
    op.drop_index(op.f("ix_recordings_session_id"), table_name="recordings")
    op.drop_index(op.f("ix_recordings_owner_used_at"), table_name="recordings")
    op.drop_table("recordings")
