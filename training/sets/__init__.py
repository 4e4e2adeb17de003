"""How retrieval sets are made: documents read, split, embedded, written; and how well they are found again."""
