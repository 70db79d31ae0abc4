"""The commands, one module each: ``add_flags(parser)`` and ``run(args) -> exit code``."""
