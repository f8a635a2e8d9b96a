"""The decoder, its families, and generation with a KV cache."""
