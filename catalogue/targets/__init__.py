"""Where results go beside the caller: who accepts them, and how they leave Kafka."""
