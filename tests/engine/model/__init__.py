"""The base model: what is refused by name, and that two ranks compute what one does."""
