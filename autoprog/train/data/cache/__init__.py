"""Decoded images in memory-mapped files: built once, checked for staleness at every opening."""
