"""`guideway studio …` and `guideway trainer`."""
