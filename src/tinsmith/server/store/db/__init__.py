"""What is stored: `tables`, `database` (connections, migrations), `writer` (one thread, group commit).

Times are seconds since the epoch (float), ids are text, and small JSON lives in JSON columns.
"""

from tinsmith.server.store.db.database import Database

__all__ = ["Database"]
