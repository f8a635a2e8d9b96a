"""Held-out loss, perplexity, bits per byte."""
