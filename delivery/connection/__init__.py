"""Which cluster a process talks to, and how it logs in."""
