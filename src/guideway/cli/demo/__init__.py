"""`guideway demo`."""
