"""Kafka clients as this project makes them, and what they ask the cluster about topics and groups."""
