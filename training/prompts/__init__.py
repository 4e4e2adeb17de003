"""Text prompts: proposed, scored, and the best one kept."""
