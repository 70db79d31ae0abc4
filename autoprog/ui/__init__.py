"""What people look at: pure views of schedules and runs, and the progress display."""
