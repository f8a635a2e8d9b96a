"""The training loop, objectives, precision, checkpoints, metrics."""
