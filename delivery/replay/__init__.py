"""Dead letters are read back, and put where they came from, each once."""
