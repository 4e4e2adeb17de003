"""Checks of manifests before they are applied."""
