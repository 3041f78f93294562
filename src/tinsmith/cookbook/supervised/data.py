"""Conversations to datums, under the module's name in the cookbook of the hosted service."""

from tinsmith.cookbook.batches.examples import conversation_to_datum, row_to_datums, text_to_datum

__all__ = ["conversation_to_datum", "row_to_datums", "text_to_datum"]
