"""Files named by their content: the store, this machine's copies, and folders that others filled."""
