"""Schema migrations, run by Alembic from inside the package: `versions/` holds one script per change.

`upgrade` brings a database to the newest version; `env` is what Alembic itself calls.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def config(connection: Connection) -> Config:
    """Return the Alembic config that works on an open connection."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest schema."""
    command.upgrade(config(connection), "head")
