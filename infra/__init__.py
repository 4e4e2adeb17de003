"""Brokers, topics and checks that guideway needs, on one machine and on a cluster."""
