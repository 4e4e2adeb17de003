"""Shadows that endpoints declare: carried out by a service, with all that is known of them in Kafka."""
