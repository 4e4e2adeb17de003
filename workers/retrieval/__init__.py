"""Passages for requests: embedding, index, choice, and the process that does it beside the engine."""
