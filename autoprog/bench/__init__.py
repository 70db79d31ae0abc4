"""Measurements of autoprog itself: how fast it is, and whether it survives being killed."""
