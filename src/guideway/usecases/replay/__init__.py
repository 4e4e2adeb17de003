"""`guideway replay`: past inputs under an endpoint as it is and as it might be."""
