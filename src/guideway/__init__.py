"""One frozen language model for many tasks at once, fed from Kafka."""

__version__ = "0.1.0"
