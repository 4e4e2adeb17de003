"""Examples: their files are read, checked and divided, and their answers are spelled."""
