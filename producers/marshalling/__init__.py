"""Events to requests, by the endpoint's rules."""
