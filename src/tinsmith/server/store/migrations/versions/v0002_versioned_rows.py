"""Rows of the journal carry a version. The tables stay as they are: rows of the first form are read where they lie.

The revision is here for older versions of the service. They would take the arguments of a row in the new form for empty
and rebuild a run from them; by the revision they refuse the data folder instead.
"""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Change nothing."""
