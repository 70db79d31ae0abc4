"""Costs: measured seconds of steps, the regression between them, and what a schedule will take."""
