"""Requests in, replies out: intake, guidance, the engine and its process, answers."""
