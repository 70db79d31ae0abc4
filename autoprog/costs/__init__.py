"""The cost table: measured seconds by cell, the law between them, and what a schedule will take."""
