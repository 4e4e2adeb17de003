"""Kafka records are read as events: their envelope, and the fields or the text that a caller sent."""
