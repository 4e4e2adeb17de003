"""The biases of an endpoint's labels: asked of the model once, and kept in the catalogue."""
