"""Replays: the same inputs under an endpoint as it is and as it might be, compared and reported."""
