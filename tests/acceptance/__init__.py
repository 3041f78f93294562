"""The acceptance table: `rows.md` says what must work, `table.py` which tests show it and what they came to."""
