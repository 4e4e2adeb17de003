"""`guideway gateway`, and `guideway keys create|list|revoke`."""
