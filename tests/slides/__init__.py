"""The code of the course's slides, as it stands there but for the name of the import."""
