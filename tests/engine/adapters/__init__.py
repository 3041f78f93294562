"""Adapters in memory: slots, masters and moments, AdamW."""
