"""Benchmarks: the machine's limits, and how near to them nysstream runs. See README.md."""
