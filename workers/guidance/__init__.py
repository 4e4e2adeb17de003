"""Finds a request's trained guidance by name and version, and fetches its files to this machine."""
