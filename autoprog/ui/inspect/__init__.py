"""The views of a run in a terminal, moved through by keys and kept up to date; the one user of Textual."""
