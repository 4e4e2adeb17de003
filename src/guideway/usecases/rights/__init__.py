"""Namespaces and rights on a cluster: made, shown, deleted, kept."""
