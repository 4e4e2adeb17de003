"""Webhooks and archives, as far as this machine knows of them."""
