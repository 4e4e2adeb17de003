"""Events in, requests out: the endpoint service and the client library. No torch here."""
