"""Ids on disk: shards, manifest, rows, order, loader."""
