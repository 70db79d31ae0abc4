"""Runs compared by their results, and speed-ups verified by pairs of runs."""
