"""Kinds of manifests that have a file of their own, and what all kinds have."""
