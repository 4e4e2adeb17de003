"""Archives: results of endpoints, with their texts, kept in the store for later training."""
