"""What Alembic runs: migrations on the connection that `upgrade` hands over."""

from alembic import context

from tinsmith.server.store.db.tables import Base

connection = context.config.attributes["connection"]
# Batches: SQLite changes a column by copying its table.
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
