"""JSON Schemas that endpoints declare: which are allowed, and which part holds at a place in a text."""
