"""Retrieval sets: made, and asked."""
