"""Which endpoint a text belongs to: learnt from examples, or chosen by the frozen model."""
