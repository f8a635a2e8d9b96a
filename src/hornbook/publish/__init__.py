"""Stock Hugging Face directories out of our checkpoints."""
