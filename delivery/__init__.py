"""Exactly-once consume → work → publish on Kafka, with work that finishes out of order. Used by both hops."""
