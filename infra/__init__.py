"""Brokers, topics and checks: what guideway needs around it, on one machine and beyond."""
