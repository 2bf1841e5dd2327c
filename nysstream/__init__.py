"""Streaming, out-of-core randomized solvers for data matrices that do not fit in memory."""
