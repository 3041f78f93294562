"""Data sets that ship with the package and need no network: `pig_latin`."""
