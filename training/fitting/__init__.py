"""One method's training: the trainable part, its steps, and when they end."""
