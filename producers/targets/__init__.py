"""Results that leave Kafka: `guideway targets` posts them to webhooks and writes archives."""
