"""`guideway replay`."""
