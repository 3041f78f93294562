"""How requests travel: retries and futures."""
