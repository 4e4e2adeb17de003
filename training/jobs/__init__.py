"""Runs as jobs from a topic."""
