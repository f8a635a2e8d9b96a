"""Text in: one file a source, one polite HTTP client."""
