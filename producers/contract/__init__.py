"""What a namespace's endpoints promise, as documents for other tools."""
