"""Registered contexts on disk: catalogue, texts, ingest and garbage collection."""
