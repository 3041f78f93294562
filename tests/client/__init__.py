"""The SDK: against a fake service (rooms as in the code), embedded, and served; import time and pickling."""
