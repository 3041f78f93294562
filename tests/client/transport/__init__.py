"""How requests travel: one question once, retries, futures."""
