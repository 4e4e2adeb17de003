"""Linear modules whose weights are laid out as products need them: in bfloat16 and in 8 bits."""
