"""JSON Schemas that endpoints declare: what is allowed in them, and what holds at a place in a text."""
