"""Retrieval sets: documents are read, split, embedded and published, and retrieval is evaluated."""
