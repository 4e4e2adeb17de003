"""The biases of an endpoint's labels: measured once with the model, and kept in the catalogue."""
