"""Text prompts: candidates are proposed and scored, and the best one is kept."""
