"""The API process on a fake engine, a folder per room; here its commands and real processes that are killed."""
