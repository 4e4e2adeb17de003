"""Files by content: the store, this machine's copies, and folders that somebody else filled."""
