"""Kafka records as events: the fields, the text and the headers that a caller sent."""
