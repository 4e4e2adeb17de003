"""I/O process ↔ its child processes: one union a direction, one file a direction."""
