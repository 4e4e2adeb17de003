"""`guideway targets`: results that leave Kafka."""
