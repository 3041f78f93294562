"""The benchmarks run at all, on little work; their numbers are never tested."""
