"""The proof: runs compared, speed-ups verified."""
