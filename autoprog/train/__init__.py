"""The runner: data, optimizer, growth and checkpoints of one training run."""
