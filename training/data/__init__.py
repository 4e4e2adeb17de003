"""Examples: files read, checked, split and written as answers."""
