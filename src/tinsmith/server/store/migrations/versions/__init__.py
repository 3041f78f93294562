"""One script per change of the schema, named by its revision."""
