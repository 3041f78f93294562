"""The official SDK and cookbook, unmodified, against this service, and the table of what works."""
