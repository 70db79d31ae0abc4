"""Views of schedules and runs: sections and their renderers, the display of a run, the program to inspect."""
