"""Loggers: what passes the events of a run on to TensorBoard or W&B, live or afterwards."""
