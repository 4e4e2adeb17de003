"""What a partition does with its results: when it publishes, which of them, as which records, in one transaction."""
