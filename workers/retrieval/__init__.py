"""Passages for requests: embedding, index, selection, and the process that does this beside the engine."""
