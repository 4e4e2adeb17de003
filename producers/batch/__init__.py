"""Batch files: a million rows, each an event."""
