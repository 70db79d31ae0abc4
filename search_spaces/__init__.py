"""Search spaces that ship with autoprog, one YAML file each."""
