"""Text to tokens and back: prompts, the form of a result, and the choice of the next token."""
