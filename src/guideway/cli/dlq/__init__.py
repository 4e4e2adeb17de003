"""`guideway dlq …`."""
