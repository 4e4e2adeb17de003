"""The training of one method: the trainable part, its steps, and the rules that end it."""
