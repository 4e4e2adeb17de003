"""Which rows run next and how much of each: decided without touching a tensor."""
