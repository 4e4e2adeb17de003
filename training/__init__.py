"""The studio: trains, evaluates and publishes guidance for a frozen base model."""
