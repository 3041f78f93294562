"""Who is next and what it pays: `accounts` of owners over all turns, `fairness` below them, `costs` of passes."""
