"""The first minutes on a GPU machine: `make gpu`."""
