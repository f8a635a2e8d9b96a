"""Text made better: read, normalise, de-duplicate, split."""
