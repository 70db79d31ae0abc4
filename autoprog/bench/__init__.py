"""Measurements of autoprog itself: how fast it is, and what it stands."""
